"""Keras' initializers: each is called with a key, a shape and a dtype, as JAX's are."""

import abc
import dataclasses
import numbers
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gruflax.functional.checks import brief
from gruflax.functional.params import orthogonal
from gruflax.keras_names.registry import Registry


Shape = tuple[int, ...]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
_MODES = get_args(Mode)
_DISTRIBUTIONS: dict[str, Literal["truncated_normal", "normal", "uniform"]] = {
    "normal": "truncated_normal",
    "truncated_normal": "truncated_normal",
    "untruncated_normal": "normal",
    "uniform": "uniform",
}


class _Seeded(abc.ABC):
    """A random initializer. A `seed` other than None is used instead of the key of the call."""

    seed: int | None

    def __post_init__(self):
        if not isinstance(self.seed, int | None):
            raise ValueError(f"seed must be an integer or None, got {brief(self.seed)}.")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Draws an array of `shape` and `dtype`."""
        key = key if self.seed is None else jax.random.key(self.seed)
        return self._draw(key, shape, dtype)

    @abc.abstractmethod
    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        """Draws an array of `shape` and `dtype` from a key."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """Every weight is `value`."""

    value: float = 0.0

    def __post_init__(self):
        if not isinstance(self.value, numbers.Real):
            raise ValueError(f"value must be a number, got {brief(self.value)}.")

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns an array of `shape` and `dtype`; `key` is not used."""
        return jnp.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Every weight is 0."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns an array of `shape` and `dtype`; `key` is not used."""
        return jnp.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Ones:
    """Every weight is 1."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns an array of `shape` and `dtype`; `key` is not used."""
        return jnp.ones(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Identity:
    """A matrix with `gain` on its diagonal."""

    gain: float = 1.0

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Returns a matrix of `shape` and `dtype`; `key` is not used."""
        if len(shape) != 2:
            raise ValueError(f"Identity makes matrices only, got shape {shape}.")
        return self.gain * jnp.eye(*shape, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class RandomNormal(_Seeded):
    """A normal distribution."""

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return self.mean + self.stddev * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(_Seeded):
    """A normal distribution cut off at two standard deviations."""

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        draw = jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
        return self.mean + self.stddev * draw


@dataclasses.dataclass(frozen=True)
class RandomUniform(_Seeded):
    """A uniform distribution between `minval` and `maxval`."""

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, self.minval, self.maxval)


@dataclasses.dataclass(frozen=True)
class VarianceScaling(_Seeded):
    """A distribution with variance `scale / n`, where n is the fan of the matrix of all gates.

    Attributes:
        scale: the factor of the variance; 1 by default.
        mode: "fan_in", the default, counts the rows, "fan_out" the columns, and "fan_avg" is their
            mean.
        distribution: "truncated_normal", the default, its other name "normal",
            "untruncated_normal" or "uniform".
        seed: an integer that replaces the key; None, the default, uses the key.

    Raises:
        ValueError: `scale` is not positive, `seed` is no integer, or the mode or distribution is
            unknown.
    """

    scale: float = 1.0
    mode: Mode = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}.")
        if self.mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {self.mode!r}.")
        if self.distribution not in _DISTRIBUTIONS:
            raise ValueError(
                f"distribution must be one of {sorted(_DISTRIBUTIONS)}, got {self.distribution!r}."
            )

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        vector = len(shape) == 1
        # For Keras both fans of a vector are its length. JAX needs a matrix: a single row has that
        # fan out.
        mode = "fan_out" if vector else self.mode
        draw = jax.nn.initializers.variance_scaling(
            self.scale, mode, _DISTRIBUTIONS[self.distribution]
        )
        return draw(key, (1, *shape), dtype)[0] if vector else draw(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal(_Seeded):
    """A matrix with orthonormal rows or columns, times `gain`, of any floating dtype.

    Source: arXiv:1312.6120.
    """

    gain: float = 1.0
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return self.gain * orthogonal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class _Scaled(_Seeded):
    """A `VarianceScaling` with a name of its own and a seed as its only argument."""

    scaling: ClassVar[VarianceScaling]
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return self.scaling(key, shape, dtype)


class GlorotNormal(_Scaled):
    """A truncated normal distribution with variance 2 / (fan in + fan out).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """

    scaling = VarianceScaling(1.0, "fan_avg", "truncated_normal")


class GlorotUniform(_Scaled):
    """A uniform distribution with variance 2 / (fan in + fan out). Source: as `GlorotNormal`."""

    scaling = VarianceScaling(1.0, "fan_avg", "uniform")


class HeNormal(_Scaled):
    """A truncated normal distribution with variance 2 / fan in. Source: arXiv:1502.01852."""

    scaling = VarianceScaling(2.0, "fan_in", "truncated_normal")


class HeUniform(_Scaled):
    """A uniform distribution with variance 2 / fan in. Source: arXiv:1502.01852."""

    scaling = VarianceScaling(2.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """A truncated normal distribution with variance 1 / fan in.

    Source: LeCun et al., "Efficient BackProp".
    """

    scaling = VarianceScaling(1.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """A uniform distribution with variance 1 / fan in. Source: as `LecunNormal`."""

    scaling = VarianceScaling(1.0, "fan_in", "uniform")


_CLASSES = (
    *(Constant, Identity, Ones, Orthogonal, RandomNormal, RandomUniform, TruncatedNormal, Zeros),
    *(GlorotNormal, GlorotUniform, HeNormal, HeUniform, LecunNormal, LecunUniform, VarianceScaling),
)
_ALIASES: dict[str, Callable] = {
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
    "normal": RandomNormal,
    "one": Ones,
    "uniform": RandomUniform,
    "zero": Zeros,
}
_REGISTRY = Registry("initializer", _CLASSES, _ALIASES)
get = _REGISTRY.get
identify = _REGISTRY.identify
knows = _REGISTRY.knows
serialize = _REGISTRY.serialize
