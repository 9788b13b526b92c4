"""Keras' constraints: functions that project a weight onto the values that it may have."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gruflax.functional.checks import at_least_float32
from gruflax.keras_names.registry import Registry


Axis = int | tuple[int, ...]

# Keras' fuzz factor, `keras.config.epsilon()`.
_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class NonNeg:
    """Sets negative weights to 0."""

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        return jax.nn.relu(weight)


@dataclasses.dataclass(frozen=True)
class MinMaxNorm:
    """Scales weights so that their norms along an axis lie between two values.

    A `rate` of 1 makes the norms obey the bounds at once; a smaller one moves them part of the way.
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: Axis = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""

        def desired(norms: jax.Array) -> jax.Array:
            clipped = jnp.clip(norms, self.min_value, self.max_value)
            return self.rate * clipped + (1 - self.rate) * norms

        return _rescaled(weight, self.axis, desired)


@dataclasses.dataclass(frozen=True)
class MaxNorm:
    """Scales down weights whose norm along an axis is above a value.

    The default axis, 0, has all weights of one unit: a column of the matrix.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """

    max_value: float = 2
    axis: Axis = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        return MinMaxNorm(0.0, self.max_value, 1.0, self.axis)(weight)


@dataclasses.dataclass(frozen=True)
class UnitNorm:
    """Scales weights to norm 1 along an axis."""

    axis: Axis = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        return _rescaled(weight, self.axis, jnp.ones_like)


def _rescaled(
    weight: jax.Array, axis: Axis, desired: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Scales weights from their norms along `axis` to `desired(norms)`."""
    # In float16 epsilon rounds to 0, and weights that are all 0, as of a new bias, would become
    # NaN.
    wide = weight.astype(at_least_float32(weight.dtype))
    norms = jnp.sqrt(jnp.square(wide).sum(axis=axis, keepdims=True))
    return (wide * (desired(norms) / (_EPSILON + norms))).astype(weight.dtype)


_CLASSES = (MaxNorm, MinMaxNorm, NonNeg, UnitNorm)
_REGISTRY = Registry("constraint", _CLASSES, {})
get = _REGISTRY.get
identify = _REGISTRY.identify
knows = _REGISTRY.knows
serialize = _REGISTRY.serialize
