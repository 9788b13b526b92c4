"""The weights and the dropout stream of a GRU: what its cell and its layer have in common."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import brief, check_flags
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.params import check_size, params_shapes
from gruflax.functional.sequence import gru_sequence
from gruflax.layers.fields import (
    ROLES,
    Identifier,
    axis_names,
    config_of,
    drops,
    initializer_of,
    settle_fields,
)
from gruflax.layers.states import single_state


Streams = nnx.Rngs | nnx.RngStream | jax.Array


class _Drawn:
    """An initializer that has drawn its weight, and so makes no difference between modules.

    To `nnx.jit` and `jax.tree.map` modules are alike where their attributes are equal, and JAX'
    initializers are functions, which never are.
    """

    def __init__(self, initializer: Callable[..., Any]):
        self.initializer = getattr(initializer, "initializer", initializer)

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        return self.initializer(key, shape, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Drawn)

    def __hash__(self) -> int:
        return hash(_Drawn)


@dataclasses.dataclass(eq=False, repr=False)
class GRUWeights(nnx.Module):
    """The weights of a GRU, and the arguments that Keras' `GRUCell` and `GRU` share.

    Parameters, each an `nnx.Param`: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias`
    [2, 3u] (`reset_after`) or [3u]; columns z | r | h, as in Keras. What Keras has a name for the
    attributes hold by that name.

    Attributes:
        in_features: size of an input step.
        units: this and all others that are not here: as `gruflax.GRUCell`. Losses are part of
            `gruflax.nnx.total_loss`, constraints of `gruflax.nnx.apply_constraints`; there is no
            `seed`.
        deterministic: whether dropout is off; `module.eval()` and `module.train()` set it.
        partitioned: parameters have their logical axis names as the metadata `out_sharding`:
            "features" and "units" for the rows of the kernels, "gates" for the columns. Flax then
            wants a mesh and `nnx.logical_axis_rules`, or `nnx.use_eager_sharding(False)`.
        rngs: streams: "params" draws the weights, a fork of "dropout" is kept where a rate is set.

    Raises:
        TypeError: `rngs` is no `nnx.Rngs`, or an argument is no identifier.
        ValueError: an argument is out of its range or unknown, or `rngs` lacks a stream.
    """

    in_features: int
    units: int
    _: dataclasses.KW_ONLY
    activation: Activation | Mapping[str, Any] = "tanh"
    recurrent_activation: Activation | Mapping[str, Any] = "sigmoid"
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
        settle_fields(self)
        for name, shape in params_shapes(self.in_features, self.units, self.config).items():
            key = stream("params", rngs)()
            value = initializer_of(self, name)(key, shape, self.param_dtype)
            names: Any = {"out_sharding": axis_names(name, len(shape))} if self.partitioned else {}
            setattr(self, name, nnx.Param(value, **names))
        for role in ROLES.values():
            initializer = getattr(self, f"{role}_initializer")
            if callable(initializer):
                setattr(self, f"{role}_initializer", _Drawn(initializer))
        self.dropout_stream = stream("dropout", rngs).fork() if drops(self) else nnx.data(None)

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
        return carry_init(stream("carry", rngs)(), shape, dtype)

    def sequence(
        self,
        inputs: ArrayLike,
        *,
        initial_state: ArrayLike | tuple | list | None = None,
        reset_state: ArrayLike | tuple | list | None = None,
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
            **self.loop_options(),
            **options,
        )

    def loop_options(self) -> dict[str, Any]:
        """Returns which loop the attributes ask for, as options of `gru_sequence`."""
        return {}

    def dropout_key(
        self, deterministic: bool | None = None, rngs: Streams | None = None
    ) -> jax.Array | None:
        """Draws the key of a call's dropout masks; None where nothing is dropped."""
        if deterministic is None:
            deterministic = self.deterministic
        check_flags(deterministic=deterministic)
        if deterministic or not drops(self):
            return None
        if isinstance(rngs, jax.Array):
            return rngs
        return stream("dropout", self.dropout_stream if rngs is None else rngs)()


def stream(name: str, rngs: Any) -> nnx.RngStream:
    """Takes a stream out of `rngs`."""
    if isinstance(rngs, nnx.RngStream):
        return rngs
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs with a {name!r} stream, got {brief(rngs)}.")
    if name not in rngs and "default" not in rngs:
        raise ValueError(f"rngs must have a {name!r} or a 'default' stream, got {list(rngs)}.")
    return rngs[name]


def each_streams(rngs: Streams | None, count: int) -> Any:
    """Returns what each of `count` modules draws from: a stream is shared, a key is split."""
    return jax.random.split(rngs, count) if isinstance(rngs, jax.Array) else (rngs,) * count
