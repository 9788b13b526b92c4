"""Keras' GRUCell and GRU as NNX modules, and the parameters that both make."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import check_flags
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.params import check_size, params_shapes
from gruflax.functional.sequence import gru_sequence
from gruflax.functional.step import gru_cell_step
from gruflax.layers.cell_loop import step_key, step_shape
from gruflax.layers.fields import (
    ROLES,
    Identifier,
    axis_names,
    config_of,
    initializer_of,
    is_random,
    resolve_loop,
    settle_gru_fields,
    settle_layer_fields,
)
from gruflax.layers.nesting import State, nested_like, single_state
from gruflax.nnx.layer import Layer, Streams, draw_key, refuse_linen_ways, stream


class _Drawn:
    """Wraps an initializer that has drawn its weight, so that it is equal to any other one.

    `nnx.jit` and `jax.tree.map` treat modules as alike only if their attributes are equal. JAX'
    initializers are functions, and two functions are never equal.
    """

    def __init__(self, initializer: Callable[..., Any]):
        self.initializer = getattr(initializer, "initializer", initializer)

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return self.initializer(key, shape, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Drawn)

    def __hash__(self) -> int:
        return hash(_Drawn)


@dataclasses.dataclass(eq=False, repr=False)
class GRUBase(nnx.Module):
    """The base of `GRUCell` and `GRU`: their common arguments, parameters and dropout keys."""

    in_features: int
    units: int
    _: dataclasses.KW_ONLY
    activation: Activation | Mapping[str, object] = "tanh"
    recurrent_activation: Activation | Mapping[str, object] = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Identifier = "glorot_uniform"
    recurrent_initializer: Identifier = "orthogonal"
    bias_initializer: Identifier = "zeros"
    kernel_regularizer: Identifier = None
    recurrent_regularizer: Identifier = None
    bias_regularizer: Identifier = None
    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reset_after: bool = True
    implementation: int = 2
    deterministic: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False
    partitioned: bool = False
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __post_init__(self, rngs: nnx.Rngs):
        check_size("in_features", self.in_features, least=0)
        settle_gru_fields(self)
        for name, shape in params_shapes(self.in_features, self.units, self.config).items():
            value = initializer_of(self, name)(draw_key("params", rngs), shape, self.param_dtype)
            names: Any = {"out_sharding": axis_names(name, len(shape))} if self.partitioned else {}
            setattr(self, name, nnx.Param(value, **names))
        for role in ROLES.values():
            initializer = getattr(self, f"{role}_initializer")
            if callable(initializer):
                setattr(self, f"{role}_initializer", _Drawn(initializer))
        dropped = is_random(self)
        self.dropout_stream = stream("dropout", rngs).fork() if dropped else nnx.data(None)

    @property
    def config(self) -> GRUConfig:
        """Returns the `GRUConfig` of the GRU, for the functions of `gruflax.functional`."""
        return config_of(self)

    @property
    def params(self) -> dict[str, jax.Array]:
        """Returns the parameters as arrays by name, for the functions of `gruflax.functional`."""
        names = params_shapes(self.in_features, self.units, self.config)
        return {name: getattr(self, name).get_value() for name in names}

    @property
    def num_feature_axes(self) -> int:
        """Returns 1, since an input step is `[..., f]`."""
        return 1

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: nnx.Initializer | None = None,
    ) -> jax.Array:
        """Returns the state before the first step `[..., u]`, for steps of `input_shape`.

        `carry_init` draws it from the stream "carry"; without it, it is the learned state or zeros.
        """
        shape = (*input_shape[:-1], self.units)
        if carry_init is None and self.learn_initial_state:
            learned = self.params["initial_state"]
            return jnp.broadcast_to(learned, shape).astype(self.dtype or learned.dtype)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return jnp.zeros(shape, dtype)
        return carry_init(draw_key("carry", rngs), shape, dtype)

    def sequence_arguments(
        self,
        *,
        initial_state: State = None,
        reset_state: State = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Returns the arguments of `gru_sequence` but for the inputs."""
        return {
            "params": self.params,
            "config": self.config,
            "initial_state": single_state("initial_state", initial_state),
            "reset_state": single_state("reset_state", reset_state),
            "rng": self.dropout_key(deterministic, rngs),
            "dtype": self.dtype,
            "precision": self.precision,
            **options,
        }

    def dropout_key(
        self, deterministic: bool | None = None, rngs: Streams | None = None
    ) -> jax.Array | None:
        """Draws the key of a call's dropout masks; None if nothing is dropped."""
        if deterministic is None:
            deterministic = self.deterministic
        check_flags(deterministic=deterministic)
        if deterministic or not is_random(self):
            return None
        return draw_key("dropout", self.dropout_stream if rngs is None else rngs)


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(GRUBase, nnx.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.nnx` RNN cell.

    For example::

        cell = gruflax.nnx.GRUCell(4, 8, rngs=nnx.Rngs(0))
        state = cell.initialize_carry(x.shape)
        state, output = cell(state, x)

    It runs wherever Flax's cells run: in `flax.nnx.RNN`, `nnx.Bidirectional`, `nnx.scan`, and in
    `gruflax.nnx.RNN`, which runs it by the loops of `gruflax.nnx.GRU`. Parameters, each an
    `nnx.Param`: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or
    [3u]; columns z | r | h, as in Keras.

    Dropout masks are drawn at each call: `flax.nnx.RNN` draws new masks at every step;
    `gruflax.nnx.RNN` draws one mask for all steps, as Keras does.

    Args:
        in_features: size f of an input step.
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
            `f(kernel) -> loss`; `gruflax.nnx.total_loss` adds the loss up. Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.nnx.apply_constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate is applied after the recurrent product, as in cuDNN,
            torch and Keras 3, or before it, as in the paper and TensorFlow 1. Default True.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1, as in Keras. Default 2.
        deterministic: whether dropout is off; `module.eval()` and `module.train()` set it. Default
            False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same
            weights at every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its previous state, drawn anew at every step
            (arXiv:1606.01305); at inference the state is its expected value. Default 0.
        learn_initial_state: whether there is a parameter `initial_state` [u], initially zeros, with
            which a sequence begins when it is given no other state. Default False.
        partitioned: whether each parameter has its logical axis names as the metadata
            `out_sharding`: "features" and "units" for the rows of the kernels, "gates" for the
            columns. Flax then needs a mesh and `nnx.logical_axis_rules`, or
            `nnx.use_eager_sharding(False)`. Default False.
        rngs: random streams: "params" draws the weights; a fork of "dropout" is kept if any rate is
            not 0.

    Raises:
        TypeError: `rngs` is not an `nnx.Rngs`, or an argument has a wrong type.
        ValueError: an argument is out of its range or unknown, or `rngs` lacks a stream.

    Sources: Keras 3's `GRUCell`; arXiv:1406.1078.
    """

    def __call__(
        self,
        carry: ArrayLike | tuple | list,
        inputs: ArrayLike,
        *,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
    ) -> tuple[State, jax.Array]:
        """Takes one step.

        Args:
            carry: the state `[..., u]`, or a tuple or list of one array like it, as Keras passes
                it.
            inputs: `[..., f]`.
            deterministic: whether dropout is off. None: as the attribute `deterministic` says.
            rngs: a stream "dropout", or a key. None: the stream that the cell keeps.

        Returns:
            `(carry, output)`: the new state, nested as it was given, and the output `[..., u]`.
        """
        refuse_linen_ways(self)
        key = self.dropout_key(deterministic, rngs)
        state, output = gru_cell_step(
            self.params,
            single_state("carry", carry),
            inputs,
            key,
            config=self.config,
            zoneout_rng=step_key(key) if self.zoneout else None,
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(carry, state), output

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, jax.Array]:
        """Runs the cell over a sequence by the loop that is best, for `gruflax.nnx.RNN`."""
        return gru_sequence(inputs=inputs, **self.sequence_arguments(**options))


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GRU(GRUBase, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names and defaults.

    For example::

        gru = gruflax.nnx.GRU(4, 8, return_sequences=True, dropout=0.1, rngs=nnx.Rngs(0))
        outputs = gru(inputs, mask=mask)

    Parameters, each an `nnx.Param`: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias`
    [2, 3u] (`reset_after`) or [3u]; columns z | r | h, as in Keras.

    Args:
        in_features: size f of an input step.
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
            `f(kernel) -> loss`; `gruflax.nnx.total_loss` adds the loss up. Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.nnx.apply_constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate is applied after the recurrent product, as in cuDNN,
            torch and Keras 3, or before it, as in the paper and TensorFlow 1. Default True.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1, as in Keras. Default 2.
        deterministic: whether dropout is off; `module.eval()` and `module.train()` set it. Default
            False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same
            weights at every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its previous state, drawn anew at every step
            (arXiv:1606.01305); at inference the state is its expected value. Default 0.
        learn_initial_state: whether there is a parameter `initial_state` [u], initially zeros, with
            which a sequence begins when it is given no other state. Default False.
        partitioned: whether each parameter has its logical axis names as the metadata
            `out_sharding`: "features" and "units" for the rows of the kernels, "gates" for the
            columns. Flax then needs a mesh and `nnx.logical_axis_rules`, or
            `nnx.use_eager_sharding(False)`. Default False.
        rngs: random streams: "params" draws the weights; a fork of "dropout" is kept if any rate is
            not 0.
        return_sequences: whether to return the outputs of all steps, or only the last output.
            Default False.
        return_state: whether to return the last state too. Default False.
        go_backwards: whether to process the last step first; the outputs are in the order of
            processing. Default False.
        stateful: whether a call begins with the state that the previous call stored in the
            attribute `h`, a `RecurrentState`; the first call or `init_state` makes it. Default
            False.
        unroll: whether to unroll the loop over the steps. Default False.
        zero_output_for_mask: whether outputs at masked steps are zeros instead of the carried
            state. Default False.
        activity_regularizer: regularizer of each output and state that is returned: a Keras name, a
            config dict, or a function `f(output) -> loss`; `nnx.capture` collects the loss as a
            `gruflax.nnx.ActivityLoss`. Default None.
        time_major: whether time is the first axis of inputs, masks and outputs. Default False.
        use_cudnn: True means `loop="cudnn"` and raises an error where cuDNN cannot run; "auto" and
            False leave the choice to `loop`. Default "auto".
        loop: name of the loop that runs the GRU, see `gruflax.gru_sequence`. Default
            "auto".
        remat: whether only every sqrt(t)-th state is kept for the backward pass, which computes the
            others again. Default False.

    Raises:
        TypeError: `rngs` is not an `nnx.Rngs`, or an argument has a wrong type.
        ValueError: an argument is out of its range or unknown, or `rngs` lacks a stream.

    Sources: Keras 3's `GRU`; arXiv:1406.1078.
    """

    use_cudnn: bool | str = "auto"
    loop: str = "auto"
    remat: bool = False

    def __post_init__(self, rngs: nnx.Rngs):
        super().__post_init__(rngs)
        settle_layer_fields(self)

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence by the loop that its attributes ask for."""
        loop, arguments = (
            resolve_loop(self.use_cudnn, self.loop),
            self.sequence_arguments(**options),
        )
        return gru_sequence(inputs=inputs, loop=loop, remat=self.remat, **arguments)

    def own_state(self, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state `[..., u]` that a sequence begins with: the learned one, or zeros."""
        return self.initialize_carry(step_shape(input_shape, 1, self.time_major))
