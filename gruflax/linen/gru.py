"""Keras' GRUCell and GRU, and what both make of the parameters of a GRU."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core.scope import LazyRng
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import check_inputs
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.params import check_params, check_size, params_shapes
from gruflax.functional.sequence import gru_sequence
from gruflax.functional.step import gru_cell_step
from gruflax.layers.cell_loop import step_shape
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
    """The fields that a cell and a layer begin with, and what they do with a GRU's parameters."""

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
        # Cell and layer declare these fields themselves, each where Keras has them in its order.
        self.kernel_constraint: Identifier
        self.recurrent_constraint: Identifier
        self.bias_constraint: Identifier
        self.dropout: float
        self.recurrent_dropout: float
        self.reset_after: bool
        self.implementation: int
        settle_gru_fields(self)
        super().__post_init__()

    @property
    def config(self) -> GRUConfig:
        """Returns what the GRU computes, as `gruflax.functional` takes it."""
        return config_of(self)

    @property
    def num_feature_axes(self) -> int:
        """Returns 1: an input step is `[..., f]`."""
        return 1

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state before the first step `[..., u]`, for steps of `input_shape`.

        It is zeros, or the learned state of a bound module that has one; `rng` is not used.
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
    def sequence(
        self,
        inputs: ArrayLike,
        *,
        initial_state: State = None,
        reset_state: State = None,
        training: bool = False,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence: `gruflax.functional.gru_sequence` with its parameters."""
        return gru_sequence(
            declare_params(self, inputs, 0 if options.get("time_major") else -2),
            inputs,
            config=self.config,
            initial_state=single_state("initial_state", initial_state),
            reset_state=single_state("reset_state", reset_state),
            rng=dropout_key(self, training),
            dtype=self.dtype,
            precision=self.precision,
            **options,
        )


@keras_class
class GRUCell(GRUBase, nn.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.linen` RNN cell.

    It runs wherever Flax's cells run: in `flax.linen.RNN`, `nn.Bidirectional`, `nn.scan`,
    `nn.vmap`, and in `gruflax.RNN`, which takes its fast loop. Parameters: `kernel` [f, 3u],
    `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or [3u]; columns z | r | h.

    Dropout masks are drawn at each call from the "dropout" stream. In `flax.linen.RNN`,
    `split_rngs={"params": False, "dropout": False}` gives the same masks at every step, as in
    Keras. The order of the arguments is Keras'; those from `recurrent_weight_dropout` on, which
    Keras does not have, are given by keyword.

    Attributes:
        units: size u of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
            Default "tanh".
        recurrent_activation: of the update and the reset gate, alike. Default "sigmoid".
        use_bias: whether there is a bias. Default True.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`. Default
            "glorot_uniform".
        recurrent_initializer: the same, for `recurrent_kernel`. Default "orthogonal".
        bias_initializer: the same, for `bias`. Default "zeros".
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; the loss is sown into
            the collection "losses". Default None.
        recurrent_regularizer: the same, for `recurrent_kernel`. Default None.
        bias_regularizer: the same, for `bias`. Default None.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`. Default None.
        recurrent_constraint: the same, for `recurrent_kernel`. Default None.
        bias_constraint: the same, for `bias`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1). Default True.
        seed: gives the dropout key when the "dropout" stream is absent. Default None.
        implementation: 1 draws dropout masks for each gate, 2 shares one. Default 2.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same at
            every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its state, drawn at every step
            (arXiv:1606.01305); at inference the state moves by the expectation. Default 0.
        learn_initial_state: a parameter `initial_state` [u], zeros at first, is what a sequence
            begins with that is given no other. Default False.
        partitioned: parameters are boxed with their logical axis names, `flax.linen`'s partitioning
            metadata: "features" and "units" for the rows of the kernels, "gates" for the columns.
            Default False.
        dtype: to compute in; None promotes parameters and inputs. Default None.
        param_dtype: of the parameters. Default float32.
        precision: of the products, as in `jax.numpy.dot`. Default None.
        name: of the module, as in Flax.

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
            zoneout_rng=step_key(self, key),
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(states, state), output


@keras_class
class GRU(GRUBase, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names, order and defaults.

    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or
    [3u]; columns z | r | h, as in Keras, and as `gruflax.functional.gru_sequence` takes them.

    The order of the arguments is Keras'; those from `loop` on are not Keras', and those from
    `recurrent_weight_dropout` on are given by keyword.

    Attributes:
        units: size u of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
            Default "tanh".
        recurrent_activation: of the update and the reset gate, alike. Default "sigmoid".
        use_bias: whether there is a bias. Default True.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`. Default
            "glorot_uniform".
        recurrent_initializer: the same, for `recurrent_kernel`. Default "orthogonal".
        bias_initializer: the same, for `bias`. Default "zeros".
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; the loss is sown into
            the collection "losses". Default None.
        recurrent_regularizer: the same, for `recurrent_kernel`. Default None.
        bias_regularizer: the same, for `bias`. Default None.
        activity_regularizer: the same, of each output, summed over the batch. Default None.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`. Default None.
        recurrent_constraint: the same, for `recurrent_kernel`. Default None.
        bias_constraint: the same, for `bias`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        seed: gives the dropout key when the "dropout" stream is absent. Default None.
        return_sequences: returns the output of every step instead of the last one. Default False.
        return_state: returns the state too. Default False.
        go_backwards: processes the last step first; outputs come in the order of processing.
            Default False.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state". Default False.
        unroll: a Python loop instead of a scan. Default False.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1). Default True.
        use_cudnn: "auto" or False leave the choice of the loop to `loop`; True is `loop="cudnn"`,
            and raises where cuDNN cannot run. Default "auto".
        zero_output_for_mask: outputs are zeros, instead of the carried state, at masked steps.
            Default False.
        implementation: 1 draws dropout masks for each gate, 2 shares one. Default 2.
        time_major: inputs, masks and outputs have time as the first axis. Default False.
        loop: which loop runs it, see `gruflax.functional.gru_sequence`. Default "auto".
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again.
            Default False.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same at
            every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its state, drawn at every step
            (arXiv:1606.01305); at inference the state moves by the expectation. Default 0.
        learn_initial_state: a parameter `initial_state` [u], zeros at first, is what a sequence
            begins with that is given no other. Default False.
        partitioned: parameters are boxed with their logical axis names, `flax.linen`'s partitioning
            metadata: "features" and "units" for the rows of the kernels, "gates" for the columns.
            Default False.
        dtype: to compute in; None promotes parameters and inputs. Default None.
        param_dtype: of the parameters. Default float32.
        precision: of the products, as in `jax.numpy.dot`. Default None.
        name: of the module, as in Flax.

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
        loop = resolve_loop(self.use_cudnn, self.loop)
        return super().sequence(inputs, loop=loop, remat=self.remat, **options)

    def own_state(self, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state `[..., u]` that a sequence begins with: the learned one, or zeros."""
        return self.initialize_carry(None, step_shape(input_shape, 1, self.time_major))


# The stream of which `gruflax.RNN` gives another key to a cell at every step.
STEP_STREAM = "step"


def step_key(module: nn.Module, key: jax.Array | None) -> jax.Array | None:
    """Returns a key of this step alone, of one that is the same at every step of a loop."""
    if key is None or module.scope is None or STEP_STREAM not in module.scope.rngs:
        return key
    # Not by make_rng: Flax counts the draws of those streams only that a model begins with.
    step = LazyRng.create(module.scope.rngs[STEP_STREAM]).as_jax_rng()
    return jax.random.fold_in(key, jax.random.bits(step))


def declare_params(
    module: GRUBase, inputs: ArrayLike, time_axis: int | None = None
) -> dict[str, jax.Array]:
    """Declares a GRU's parameters in a compact method, and sows their regularisation losses.

    `inputs` are a step `[..., f]`, or a sequence with its `time_axis` 0 or -2.
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
    """Returns what the variables hold for a GRU, before Flax asks for it; None if Flax makes it."""
    given = nn.unbox(module.variables.get("params", {}))
    if module.is_initializing() or (not given and module.is_mutable_collection("params")):
        return None
    # With none of a GRU's names, those of another library's are for the error to tell.
    return {name: given[name] for name in AXES if name in given} or dict(given)


def _boxing(module: GRUBase, name: str) -> Callable[..., Any]:
    """Returns what draws a parameter, boxed with its axis names where the module asks for it."""
    draw = initializer_of(module, name)
    if not getattr(module, "partitioned", False):
        return draw

    def draw_boxed(key, shape, dtype):
        value = draw(key, shape, dtype)
        # An initializer that was given names of its own keeps them.
        boxed = isinstance(value, nn.meta.AxisMetadata)
        return value if boxed else nn.LogicallyPartitioned(value, axis_names(name, len(shape)))

    return draw_boxed
