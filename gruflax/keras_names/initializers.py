"""Keras' initializers, over `jax.nn.initializers`."""

import abc
import dataclasses
import numbers
from collections.abc import Callable
from typing import Literal, get_args

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
    """A random initializer, whose `seed` replaces the key if it is not None."""

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
        """Draws an array of `shape` and `dtype` by a key."""


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
    """A normal distribution without what lies beyond two standard deviations."""

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
    """A distribution with variance `scale / n`, n the fan of the fused matrix.

    Attributes:
        scale: factor of the variance.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal", "untruncated_normal" or "uniform".
        seed: replaces the key where given.

    Raises:
        ValueError: `scale` is not positive, `seed` is no integer, or another mode or distribution.
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
        # To Keras a vector's fans are both its length, as is the outer fan of a one-row matrix.
        mode = "fan_out" if vector else self.mode
        draw = jax.nn.initializers.variance_scaling(
            self.scale, mode, _DISTRIBUTIONS[self.distribution]
        )
        return draw(key, (1, *shape), dtype)[0] if vector else draw(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Orthogonal(_Seeded):
    """A matrix with orthonormal rows or columns, times `gain`; any floating dtype.

    Source: arXiv:1312.6120.
    """

    gain: float = 1.0
    seed: int | None = None

    def _draw(self, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return self.gain * orthogonal(key, shape, dtype)


def _scaled(name: str, scale: float, mode: Mode, distribution: str, source: str) -> type:
    """Makes one of the named special cases of `VarianceScaling`, with a seed as its only field."""

    def draw(self: _Seeded, key: jax.Array, shape: Shape, dtype: DTypeLike) -> jax.Array:
        return VarianceScaling(scale, mode, distribution)(key, shape, dtype)

    return dataclasses.make_dataclass(
        name,
        [("seed", int | None, None)],
        bases=(_Seeded,),
        namespace={
            "_draw": draw,
            "__doc__": f"VarianceScaling({scale}, {mode!r}, {distribution!r}). Source: {source}.",
            "__module__": __name__,
        },
        frozen=True,
    )


_GLOROT = 'Glorot and Bengio, "Understanding the difficulty of training deep feedforward networks"'
_HE = "arXiv:1502.01852"
_LECUN = 'LeCun et al., "Efficient BackProp"'

GlorotNormal = _scaled("GlorotNormal", 1.0, "fan_avg", "truncated_normal", _GLOROT)
GlorotUniform = _scaled("GlorotUniform", 1.0, "fan_avg", "uniform", _GLOROT)
HeNormal = _scaled("HeNormal", 2.0, "fan_in", "truncated_normal", _HE)
HeUniform = _scaled("HeUniform", 2.0, "fan_in", "uniform", _HE)
LecunNormal = _scaled("LecunNormal", 1.0, "fan_in", "truncated_normal", _LECUN)
LecunUniform = _scaled("LecunUniform", 1.0, "fan_in", "uniform", _LECUN)

_CLASSES = (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Identity,
    LecunNormal,
    LecunUniform,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
_ALIASES: dict[str, Callable] = {
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
    "normal": RandomNormal,
    "one": Ones,
    "uniform": RandomUniform,
    "zero": Zeros,
}
_REGISTRY = Registry("initializer", {cls.__name__: cls for cls in _CLASSES}, _ALIASES)
get = _REGISTRY.get
identify = _REGISTRY.identify
serialize = _REGISTRY.serialize
