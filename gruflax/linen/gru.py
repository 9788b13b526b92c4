"""Keras' GRUCell and GRU as `flax.linen` modules, and the parameters that both declare."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import check_inputs
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.params import check_params, check_size, params_shapes
from gruflax.functional.sequence import gru_sequence
from gruflax.functional.step import gru_cell_step
from gruflax.layers.cell_loop import step_key, step_shape
from gruflax.layers.fields import (
    AXES,
    Identifier,
    axis_names,
    config_of,
    initializer_of,
    resolve_loop,
    settle_gru_fields,
)
from gruflax.layers.nesting import State, nested_like, single_state
from gruflax.linen.config import keras_class
from gruflax.linen.layer import Layer, Module, dropout_key
from gruflax.linen.training import sow_weight_losses


class GRUBase(Module):
    """The base of `GRUCell` and `GRU`: their first fields, and the run of a sequence."""

    units: int
    activation: Activation | Mapping[str, object] = "tanh"
    recurrent_activation: Activation | Mapping[str, object] = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Identifier = "glorot_uniform"
    recurrent_initializer: Identifier = "orthogonal"
    bias_initializer: Identifier = "zeros"
    kernel_regularizer: Identifier = None
    recurrent_regularizer: Identifier = None
    bias_regularizer: Identifier = None
    _: dataclasses.KW_ONLY
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None

    def __post_init__(self):
        # The cell and the layer declare these fields themselves, in Keras' order of arguments.
        self.dropout: float
        self.recurrent_dropout: float
        self.reset_after: bool
        self.implementation: int
        settle_gru_fields(self)
        super().__post_init__()

    @property
    def config(self) -> GRUConfig:
        """Returns the `GRUConfig` of the GRU, for the functions of `gruflax.functional`."""
        return config_of(self)

    @property
    def num_feature_axes(self) -> int:
        """Returns 1, since an input step is `[..., f]`."""
        return 1

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state before the first step `[..., u]`, for steps of `input_shape`.

        It is the learned state if the module is bound and has one, else zeros. `rng` is not used.
        """
        del rng
        shape = (*input_shape[:-1], self.units)
        if self.scope is None or not self.has_variable("params", "initial_state"):
            return jnp.zeros(shape, self.dtype or self.param_dtype)
        learned = nn.unbox(self.get_variable("params", "initial_state"))
        return jnp.broadcast_to(learned, shape).astype(self.dtype or learned.dtype)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple[jax.Array]:
        """Returns the state before the first step, for Keras: `([batch_size, u] zeros,)`."""
        check_size("batch_size", batch_size)
        return (self.initialize_carry(None, (batch_size, 1)),)

    @nn.compact
    def sequence_arguments(
        self,
        inputs: ArrayLike,
        *,
        initial_state: State = None,
        reset_state: State = None,
        training: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Returns the arguments of `gru_sequence` but for the inputs, the parameters declared."""
        return {
            "params": declare_params(self, inputs, 0 if options.get("time_major") else -2),
            "config": self.config,
            "initial_state": single_state("initial_state", initial_state),
            "reset_state": single_state("reset_state", reset_state),
            "rng": dropout_key(self, training),
            "dtype": self.dtype,
            "precision": self.precision,
            **options,
        }


@keras_class
class GRUCell(GRUBase, nn.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.linen` RNN cell.

    It runs wherever Flax's cells run: in `flax.linen.RNN`, `nn.Bidirectional`, `nn.scan`,
    `nn.vmap`, and in `gruflax.RNN`, which runs it by the loops of `gruflax.GRU`. Parameters:
    `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or [3u]; columns
    z | r | h.

    Dropout masks are drawn at each call from the "dropout" stream. In `flax.linen.RNN`,
    `split_rngs={"params": False, "dropout": False}` gives the same masks at every step, as in
    Keras. The arguments are in Keras' order; those from `dtype` on are keyword-only.

    Attributes:
        units: size u of the state.
        activation: activation of the candidate state: a Keras name, a config dict, or a function
            `f(array) -> array`; None is linear. Default "tanh".
        recurrent_activation: activation of the update and reset gates, given like `activation`.
            Default "sigmoid".
        use_bias: whether the GRU has a bias. Default True.
        kernel_initializer: initializer of `kernel`: a Keras name, a config dict, or a function
            `f(key, shape, dtype)`. Default "glorot_uniform".
        recurrent_initializer: initializer of `recurrent_kernel`, given like `kernel_initializer`.
            Default "orthogonal".
        bias_initializer: initializer of `bias`, given like `kernel_initializer`. Default "zeros".
        kernel_regularizer: regularizer of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> loss`; the loss is sown into the collection "losses". Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate is applied after the recurrent product, as in cuDNN,
            torch and Keras 3, or before it, as in the paper and TensorFlow 1. Default True.
        seed: integer that gives the dropout key when there is no "dropout" stream. Default None.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1, as in Keras. Default 2.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same
            weights at every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its previous state, drawn anew at every step
            (arXiv:1606.01305); at inference the state is its expected value. Default 0.
        learn_initial_state: whether there is a parameter `initial_state` [u], initially zeros, with
            which a sequence begins when it is given no other state. Default False.
        partitioned: whether each parameter is boxed with its logical axis names, the partitioning
            metadata of `flax.linen`: "features" and "units" for the rows of the kernels, "gates"
            for the columns. Default False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        name: name of the module, as in Flax. Default None.

    Sources: Keras 3's `GRUCell`; arXiv:1406.1078.
    """

    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reset_after: bool = True
    seed: int | None = None
    implementation: int = 2
    _: dataclasses.KW_ONLY
    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False
    partitioned: bool = False

    @nn.compact
    def __call__(
        self, states: ArrayLike | tuple | list, inputs: ArrayLike, training: bool = False
    ) -> tuple[State, jax.Array]:
        """Takes one step.

        Args:
            states: `[..., u]`, or a tuple or list of one array like it, as Keras passes it.
            inputs: `[..., f]`.
            training: whether to apply dropout, False by default.

        Returns:
            `(states, output)`: the new state, nested as it was given, and the output `[..., u]`.

        Raises:
            ValueError: a shape does not fit, or there is more than one state.
        """
        params, key = declare_params(self, inputs), dropout_key(self, training)
        state, output = gru_cell_step(
            params,
            single_state("states", states),
            inputs,
            key,
            config=self.config,
            zoneout_rng=step_key(key) if self.zoneout else None,
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(states, state), output

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, jax.Array]:
        """Runs the cell over a sequence by the loop that is best, for `gruflax.RNN`."""
        return gru_sequence(inputs=inputs, **self.sequence_arguments(inputs, **options))


@keras_class
class GRU(GRUBase, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names, order and defaults.

    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or
    [3u]; columns z | r | h, as in Keras, and as `gruflax.gru_sequence` takes them.

    The arguments are in Keras' order, followed by those that Keras does not have; those from
    `dtype` on are keyword-only.

    Attributes:
        units: size u of the state.
        activation: activation of the candidate state: a Keras name, a config dict, or a function
            `f(array) -> array`; None is linear. Default "tanh".
        recurrent_activation: activation of the update and reset gates, given like `activation`.
            Default "sigmoid".
        use_bias: whether the GRU has a bias. Default True.
        kernel_initializer: initializer of `kernel`: a Keras name, a config dict, or a function
            `f(key, shape, dtype)`. Default "glorot_uniform".
        recurrent_initializer: initializer of `recurrent_kernel`, given like `kernel_initializer`.
            Default "orthogonal".
        bias_initializer: initializer of `bias`, given like `kernel_initializer`. Default "zeros".
        kernel_regularizer: regularizer of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> loss`; the loss is sown into the collection "losses". Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        activity_regularizer: regularizer of each output and state that is returned: a Keras name, a
            config dict, or a function `f(output) -> loss`; the loss of the whole batch is sown into
            the collection "losses". Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        seed: integer that gives the dropout key when there is no "dropout" stream. Default None.
        return_sequences: whether to return the outputs of all steps, or only the last output.
            Default False.
        return_state: whether to return the last state too. Default False.
        go_backwards: whether to process the last step first; the outputs are in the order of
            processing. Default False.
        stateful: whether a call begins with the state that the previous call stored in the
            collection "recurrent_state". Default False.
        unroll: whether to unroll the loop over the steps. Default False.
        reset_after: whether the reset gate is applied after the recurrent product, as in cuDNN,
            torch and Keras 3, or before it, as in the paper and TensorFlow 1. Default True.
        use_cudnn: True means `loop="cudnn"` and raises an error where cuDNN cannot run; "auto" and
            False leave the choice to `loop`. Default "auto".
        zero_output_for_mask: whether outputs at masked steps are zeros instead of the carried
            state. Default False.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1, as in Keras. Default 2.
        time_major: whether time is the first axis of inputs, masks and outputs. Default False.
        loop: name of the loop that runs the GRU, see `gruflax.gru_sequence`. Default
            "auto".
        remat: whether only every sqrt(t)-th state is kept for the backward pass, which computes the
            others again. Default False.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same
            weights at every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its previous state, drawn anew at every step
            (arXiv:1606.01305); at inference the state is its expected value. Default 0.
        learn_initial_state: whether there is a parameter `initial_state` [u], initially zeros, with
            which a sequence begins when it is given no other state. Default False.
        partitioned: whether each parameter is boxed with its logical axis names, the partitioning
            metadata of `flax.linen`: "features" and "units" for the rows of the kernels, "gates"
            for the columns. Default False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        name: name of the module, as in Flax. Default None.

    Sources: Keras 3's `GRU`; arXiv:1406.1078.
    """

    activity_regularizer: Identifier = None
    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    reset_after: bool = True
    use_cudnn: bool | str = "auto"
    zero_output_for_mask: bool = False
    implementation: int = 2
    time_major: bool = False
    loop: str = "auto"
    remat: bool = False
    _: dataclasses.KW_ONLY
    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False
    partitioned: bool = False

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence by the loop that its fields ask for."""
        arguments = self.sequence_arguments(inputs, **options)
        loop = resolve_loop(self.use_cudnn, self.loop)
        return gru_sequence(inputs=inputs, loop=loop, remat=self.remat, **arguments)

    def own_state(self, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state `[..., u]` that a sequence begins with: the learned one, or zeros."""
        return self.initialize_carry(None, step_shape(input_shape, 1, self.time_major))


def declare_params(
    module: GRUBase, inputs: ArrayLike, time_axis: int | None = None
) -> dict[str, jax.Array]:
    """Declares a GRU's parameters in a compact method, and sows their regularisation losses.

    `inputs` are one step `[..., f]`, or a sequence whose `time_axis` is 0 or -2.
    """
    config, given = module.config, _given_params(module)
    features = None if given is None else check_params(given, config, module.units)[0]
    axes = {None: "...", 0: "time, ...", -2: "..., time"}[time_axis]
    check_inputs("inputs", inputs, features, axes, 1 if time_axis is None else 2)
    shapes = params_shapes(np.shape(inputs)[-1], module.units, config)
    params = {
        name: module.param(name, _boxing(module, name), shape, module.param_dtype)
        for name, shape in shapes.items()
    }
    sow_weight_losses(module, params)
    return params


def _given_params(module: nn.Module) -> dict[str, jax.Array] | None:
    """Returns the parameters among a GRU's variables; None if this call creates them."""
    given = nn.unbox(module.variables.get("params", {}))
    if module.is_initializing() or (not given and module.is_mutable_collection("params")):
        return None
    # If no name is a GRU's, all names are returned so that the error can list them.
    return {name: given[name] for name in AXES if name in given} or dict(given)


def _boxing(module: GRUBase, name: str) -> Callable[..., Any]:
    """Returns the function that draws a parameter, boxed with axis names if `partitioned`."""
    draw = initializer_of(module, name)
    if not getattr(module, "partitioned", False):
        return draw

    def draw_boxed(key, shape, dtype):
        value = draw(key, shape, dtype)
        # If the initializer has boxed the value with axis names, those are kept.
        boxed = isinstance(value, nn.meta.AxisMetadata)
        return value if boxed else nn.LogicallyPartitioned(value, axis_names(name, len(shape)))

    return draw_boxed
