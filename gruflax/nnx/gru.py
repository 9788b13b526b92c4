"""Keras' GRUCell and GRU as NNX modules, and what both make of the parameters of a GRU."""

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
from gruflax.layers.cell_loop import step_shape
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
    """An initializer that has drawn its weight, and so makes no difference between modules.

    To `nnx.jit` and `jax.tree.map` modules are alike where their attributes are equal, and JAX'
    initializers are functions, which never are.
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
    """The arguments that `GRUCell` and `GRU` share, and what they do with a GRU's parameters."""

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
        """Returns what the GRU computes, as `gruflax.functional` takes it."""
        return config_of(self)

    @property
    def params(self) -> dict[str, jax.Array]:
        """Returns the parameters, as `gruflax.functional` takes them."""
        names = params_shapes(self.in_features, self.units, self.config)
        return {name: getattr(self, name).get_value() for name in names}

    @property
    def num_feature_axes(self) -> int:
        """Returns 1: an input step is `[..., f]`."""
        return 1

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: nnx.Initializer | None = None,
    ) -> jax.Array:
        """Returns the state before the first step `[..., u]`, for steps of `input_shape`.

        It is what `carry_init` draws from the stream "carry", else the learned state, else zeros.
        """
        shape = (*input_shape[:-1], self.units)
        if carry_init is None and self.learn_initial_state:
            learned = self.params["initial_state"]
            return jnp.broadcast_to(learned, shape).astype(self.dtype or learned.dtype)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return jnp.zeros(shape, dtype)
        return carry_init(draw_key("carry", rngs), shape, dtype)

    def sequence(
        self,
        inputs: ArrayLike,
        *,
        initial_state: State = None,
        reset_state: State = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence: `gruflax.functional.gru_sequence` with its parameters."""
        return gru_sequence(
            self.params,
            inputs,
            config=self.config,
            initial_state=single_state("initial_state", initial_state),
            reset_state=single_state("reset_state", reset_state),
            rng=self.dropout_key(deterministic, rngs),
            dtype=self.dtype,
            precision=self.precision,
            **options,
        )

    def dropout_key(
        self, deterministic: bool | None = None, rngs: Streams | None = None
    ) -> jax.Array | None:
        """Draws the key of a call's dropout masks; None where nothing is dropped."""
        if deterministic is None:
            deterministic = self.deterministic
        check_flags(deterministic=deterministic)
        if deterministic or not is_random(self):
            return None
        return draw_key("dropout", self.dropout_stream if rngs is None else rngs)


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(GRUBase, nnx.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.nnx` RNN cell.

        cell = gruflax.nnx.GRUCell(4, 8, rngs=nnx.Rngs(0))
        state = cell.initialize_carry(x.shape)
        state, output = cell(state, x)

    It runs wherever Flax's cells run: in `flax.nnx.RNN`, `nnx.Bidirectional`, `nnx.scan`, and in
    `gruflax.nnx.RNN`, which takes its fast loop. Parameters, each an `nnx.Param`: `kernel`
    [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or [3u]; columns
    z | r | h, as in Keras.

    Dropout masks are drawn at each call: `flax.nnx.RNN` drops anew at every step;
    `gruflax.nnx.RNN`, as Keras, draws one mask for all steps.

    Args:
        in_features: size f of an input step.
        units: size u of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
            Default "tanh".
        recurrent_activation: of the update and the reset gate, alike. Default "sigmoid".
        use_bias: whether there is a bias. Default True.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`. Default
            "glorot_uniform".
        recurrent_initializer: the same, for `recurrent_kernel`. Default "orthogonal".
        bias_initializer: the same, for `bias`. Default "zeros".
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; the loss is part of
            `gruflax.nnx.total_loss`. Default None.
        recurrent_regularizer: the same, for `recurrent_kernel`. Default None.
        bias_regularizer: the same, for `bias`. Default None.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.nnx.apply_constraints`. Default None.
        recurrent_constraint: the same, for `recurrent_kernel`. Default None.
        bias_constraint: the same, for `bias`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1). Default True.
        implementation: 1 draws dropout masks for each gate, 2 shares one. Default 2.
        deterministic: whether dropout is off; `module.eval()` and `module.train()` set it. Default
            False.
        dtype: to compute in; None promotes parameters and inputs. Default None.
        param_dtype: of the parameters. Default float32.
        precision: of the products, as in `jax.numpy.dot`. Default None.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same at
            every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its state, drawn at every step
            (arXiv:1606.01305); at inference the state moves by the expectation. Default 0.
        learn_initial_state: a parameter `initial_state` [u], zeros at first, is what a sequence
            begins with that is given no other. Default False.
        partitioned: parameters have their logical axis names as the metadata `out_sharding`:
            "features" and "units" for the rows of the kernels, "gates" for the columns. Flax then
            wants a mesh and `nnx.logical_axis_rules`, or `nnx.use_eager_sharding(False)`. Default
            False.
        rngs: streams: "params" draws the weights; a fork of "dropout" is kept where a rate is set.

    Raises:
        TypeError: `rngs` is no `nnx.Rngs`, or an argument is no identifier.
        ValueError: an argument is out of its range or unknown, or `rngs` lacks a stream.

    Sources: Keras 3's `GRUCell`; arXiv:1406.1078.
    """

    def __post_init__(self, rngs: nnx.Rngs):
        super().__post_init__(rngs)
        # `gruflax.nnx.RNN` says here which step of its loop this is.
        self.step: jax.Array | None = nnx.data(None)

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
            deterministic: whether dropout is off; None is the attribute.
            rngs: stream "dropout", or the key itself; None is the stream kept.

        Returns:
            `(carry, output)`: the new state, nested as it was given, and the output `[..., u]`.
        """
        refuse_linen_ways(self)
        key = zoneout_key = self.dropout_key(deterministic, rngs)
        if key is not None and self.step is not None:
            # Zoneout is drawn anew at every step of a loop, though the key of dropout is the same.
            zoneout_key = jax.random.fold_in(key, self.step)
        state, output = gru_cell_step(
            self.params,
            single_state("carry", carry),
            inputs,
            key,
            config=self.config,
            zoneout_rng=zoneout_key,
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(carry, state), output


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GRU(GRUBase, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names and defaults.

        gru = gruflax.nnx.GRU(4, 8, return_sequences=True, dropout=0.1, rngs=nnx.Rngs(0))
        outputs = gru(inputs, mask=mask)

    Parameters, each an `nnx.Param`: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias`
    [2, 3u] (`reset_after`) or [3u]; columns z | r | h, as in Keras.

    Args:
        in_features: size f of an input step.
        units: size u of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
            Default "tanh".
        recurrent_activation: of the update and the reset gate, alike. Default "sigmoid".
        use_bias: whether there is a bias. Default True.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`. Default
            "glorot_uniform".
        recurrent_initializer: the same, for `recurrent_kernel`. Default "orthogonal".
        bias_initializer: the same, for `bias`. Default "zeros".
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; the loss is part of
            `gruflax.nnx.total_loss`. Default None.
        recurrent_regularizer: the same, for `recurrent_kernel`. Default None.
        bias_regularizer: the same, for `bias`. Default None.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.nnx.apply_constraints`. Default None.
        recurrent_constraint: the same, for `recurrent_kernel`. Default None.
        bias_constraint: the same, for `bias`. Default None.
        dropout: rate in [0, 1] at which input features are dropped. Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped. Default 0.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1). Default True.
        implementation: 1 draws dropout masks for each gate, 2 shares one. Default 2.
        deterministic: whether dropout is off; `module.eval()` and `module.train()` set it. Default
            False.
        dtype: to compute in; None promotes parameters and inputs. Default None.
        param_dtype: of the parameters. Default float32.
        precision: of the products, as in `jax.numpy.dot`. Default None.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same at
            every step (DropConnect, arXiv:1708.02182). Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its state, drawn at every step
            (arXiv:1606.01305); at inference the state moves by the expectation. Default 0.
        learn_initial_state: a parameter `initial_state` [u], zeros at first, is what a sequence
            begins with that is given no other. Default False.
        partitioned: parameters have their logical axis names as the metadata `out_sharding`:
            "features" and "units" for the rows of the kernels, "gates" for the columns. Flax then
            wants a mesh and `nnx.logical_axis_rules`, or `nnx.use_eager_sharding(False)`. Default
            False.
        rngs: streams: "params" draws the weights; a fork of "dropout" is kept where a rate is set.
        return_sequences: returns the output of every step instead of the last one. Default False.
        return_state: returns the state too. Default False.
        go_backwards: processes the last step first; outputs come in the order of processing.
            Default False.
        stateful: begins with the state that the last call left in `h`, a `RecurrentState`, which
            the first call makes, or `init_state`. Default False.
        unroll: a Python loop instead of a scan. Default False.
        zero_output_for_mask: outputs are zeros, instead of the carried state, at masked steps.
            Default False.
        activity_regularizer: a Keras name, config dict, or `f(output) -> loss`, of each output;
            captured as `gruflax.nnx.ActivityLoss`. Default None.
        time_major: inputs, masks and outputs have time as the first axis. Default False.
        use_cudnn: "auto" or False leave the choice of the loop to `loop`; True is `loop="cudnn"`,
            and raises where cuDNN cannot run. Default "auto".
        loop: which loop runs it, see `gruflax.functional.gru_sequence`. Default "auto".
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again.
            Default False.

    Raises:
        TypeError: `rngs` is no `nnx.Rngs`, or an argument is no identifier.
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
        loop = resolve_loop(self.use_cudnn, self.loop)
        return super().sequence(inputs, loop=loop, remat=self.remat, **options)

    def own_state(self, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state `[..., u]` that a sequence begins with: the learned one, or zeros."""
        return self.initialize_carry(step_shape(input_shape, 1, self.time_major))
