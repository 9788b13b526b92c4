"""Keras' regularizers: each computes a loss from one weight, or from the outputs of a layer."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from gruflax.functional.checks import at_least_float32
from gruflax.keras_names.registry import Registry


@dataclasses.dataclass(frozen=True)
class L1L2:
    """The penalty `l1 sum |w| + l2 sum w^2`; the factors must be finite and not negative."""

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self):
        _check_factor("l1", self.l1)
        _check_factor("l2", self.l2)

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the loss, a scalar, of an array of any shape."""
        weight = _wide(weight)
        return self.l1 * jnp.abs(weight).sum() + self.l2 * jnp.square(weight).sum()


@dataclasses.dataclass(frozen=True)
class L1:
    """The penalty `l1 sum |w|`; the factor must be finite and not negative."""

    l1: float = 0.01

    def __post_init__(self):
        _check_factor("l1", self.l1)

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the loss, a scalar, of an array of any shape."""
        return self.l1 * jnp.abs(_wide(weight)).sum()


@dataclasses.dataclass(frozen=True)
class L2:
    """The penalty `l2 sum w^2`; the factor must be finite and not negative."""

    l2: float = 0.01

    def __post_init__(self):
        _check_factor("l2", self.l2)

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the loss, a scalar, of an array of any shape."""
        return self.l2 * jnp.square(_wide(weight)).sum()


@dataclasses.dataclass(frozen=True)
class OrthogonalRegularizer:
    """A penalty on the mean absolute cosine between the rows, or the columns, of a matrix."""

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self):
        _check_factor("factor", self.factor)
        if self.mode not in ("rows", "columns"):
            raise ValueError(f"mode must be 'rows' or 'columns', got {self.mode!r}.")

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the loss, a scalar, of a matrix `[rows, columns]`."""
        if weight.ndim != 2:
            raise ValueError(f"weight must be a matrix, got shape {weight.shape}.")
        vectors = _wide(weight if self.mode == "rows" else weight.T)
        squares = jnp.square(vectors).sum(axis=1, keepdims=True)
        vectors = vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
        count = vectors.shape[0]
        cosines = jnp.abs(vectors @ vectors.T) * (1 - jnp.eye(count, dtype=vectors.dtype))
        return self.factor * 0.5 * cosines.sum() / (count * (count - 1) / 2)


def _check_factor(name: str, factor: float) -> None:
    if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {factor!r}.")


def _wide(weight: jax.Array) -> jax.Array:
    # A sum over thousands of 16-bit squares would lose its digits.
    return weight.astype(at_least_float32(weight.dtype))


def _l1_l2() -> L1L2:
    """Returns TensorFlow 1's `l1_l2`; the factors of Keras 3's class L1L2 are 0 by default."""
    return L1L2(l1=0.01, l2=0.01)


_CLASSES = (L1, L1L2, L2, OrthogonalRegularizer)
_REGISTRY = Registry("regularizer", _CLASSES, {"l1_l2": _l1_l2})
get = _REGISTRY.get
identify = _REGISTRY.identify
knows = _REGISTRY.knows
serialize = _REGISTRY.serialize
