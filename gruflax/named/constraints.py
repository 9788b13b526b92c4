"""Keras' weight constraints: projections of one weight."""

import dataclasses

import jax
import jax.numpy as jnp

from gruflax.named.registry import Registry


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

    Attributes:
        min_value: the smallest norm.
        max_value: the largest norm.
        rate: 1 enforces the bounds at every step, less moves towards them.
        axis: along which norms are taken: 0 is the weights into one column.
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        norms = _norms(weight, self.axis)
        clipped = jnp.clip(norms, self.min_value, self.max_value)
        desired = self.rate * clipped + (1 - self.rate) * norms
        return weight * (desired / (_EPSILON + norms))


@dataclasses.dataclass(frozen=True)
class MaxNorm:
    """Scales weights down whose norm along an axis is above a value.

    Attributes:
        max_value: the largest norm.
        axis: along which norms are taken: 0 is the weights into one column.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """

    max_value: float = 2
    axis: int = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        return MinMaxNorm(0.0, self.max_value, 1.0, self.axis)(weight)


@dataclasses.dataclass(frozen=True)
class UnitNorm:
    """Scales weights to norm 1 along an axis.

    Attributes:
        axis: along which norms are taken: 0 is the weights into one column.
    """

    axis: int = 0

    def __call__(self, weight: jax.Array) -> jax.Array:
        """Returns the constrained weight, of the same shape and dtype."""
        return weight / (_EPSILON + _norms(weight, self.axis))


def _norms(weight: jax.Array, axis: int) -> jax.Array:
    return jnp.sqrt(jnp.square(weight).sum(axis=axis, keepdims=True))


_CLASSES = (MaxNorm, MinMaxNorm, NonNeg, UnitNorm)
_REGISTRY = Registry("constraint", {cls.__name__: cls for cls in _CLASSES}, {})
get = _REGISTRY.get
serialize = _REGISTRY.serialize
