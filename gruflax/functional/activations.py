"""Keras' activations by name."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


Function = Callable[[jax.Array], jax.Array]


def linear(x: jax.Array) -> jax.Array:
    """Returns `x`."""
    return x


def hard_shrink(x: jax.Array) -> jax.Array:
    """Returns `x` where its size is above 0.5, else 0."""
    return jnp.where(jnp.abs(x) > 0.5, x, jnp.zeros_like(x))


def soft_shrink(x: jax.Array) -> jax.Array:
    """Moves `x` by 0.5 towards 0, and no further."""
    return jnp.sign(x) * jax.nn.relu(jnp.abs(x) - 0.5)


def hard_sigmoid_v1(x: jax.Array) -> jax.Array:
    """TensorFlow 1's piecewise linear sigmoid, `clip(0.2 x + 0.5, 0, 1)`.

    Keras 3 gives the name `hard_sigmoid` to `relu6(x + 3) / 6`.
    """
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


def tanh_shrink(x: jax.Array) -> jax.Array:
    """Returns `x - tanh(x)`."""
    return x - jnp.tanh(x)


def sparsemax(x: jax.Array) -> jax.Array:
    """Projects `x` [..., u] onto the simplex, over the last axis.

    Keras 3.15's own adds up the cumulative sums of the support, not its values, so that what it
    returns does not sum to 1; this one does.

    Source: Martins and Astudillo, "From Softmax to Sparsemax", arXiv:1602.02068.
    """
    ordered = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
    counts = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    support = 1 + counts * ordered > jnp.cumsum(ordered, axis=-1)
    kept = jnp.where(support, ordered, jnp.zeros_like(ordered)).sum(axis=-1, keepdims=True)
    return jax.nn.relu(x - (kept - 1) / support.sum(axis=-1, keepdims=True).astype(x.dtype))


ACTIVATIONS: dict[str, Function] = {
    "celu": jax.nn.celu,
    "elu": jax.nn.elu,
    "exponential": jnp.exp,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "hard_shrink": hard_shrink,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "hard_swish": jax.nn.hard_silu,
    "hard_tanh": jax.nn.hard_tanh,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "linear": linear,
    "log_sigmoid": jax.nn.log_sigmoid,
    "log_softmax": jax.nn.log_softmax,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "soft_shrink": soft_shrink,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "sparse_plus": jax.nn.sparse_plus,
    "sparse_sigmoid": jax.nn.sparse_sigmoid,
    "sparsemax": sparsemax,
    "squareplus": jax.nn.squareplus,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "tanh_shrink": tanh_shrink,
}

# Each unit by itself. `softmax` and its kin mix units; of a user's own function nothing is known.
_MIXING = {jax.nn.log_softmax, jax.nn.softmax, sparsemax}
_POINTWISE = {hard_sigmoid_v1, *ACTIVATIONS.values()} - _MIXING

_SPELLINGS = {name.replace("_", ""): function for name, function in ACTIVATIONS.items()}


def get_activation(identifier: str | Function | None) -> Function:
    """Looks up an activation.

    Args:
        identifier: a Keras name ("hard_sigmoid" or "HardSigmoid"), a callable, or None for linear.

    Returns:
        A function from `[..., u]` to `[..., u]`.

    Raises:
        TypeError: `identifier` is neither.
        ValueError: the name is unknown; the message lists the known ones.

    Source: the names and defaults of `keras.activations`.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        function = _SPELLINGS.get(identifier.replace("_", "").lower())
        if function is None:
            raise ValueError(
                f"activation must be one of {sorted(ACTIVATIONS)}, got {identifier!r}."
            )
        return function
    if callable(identifier):
        return identifier
    raise TypeError(f"activation must be a name, a callable or None, got {identifier!r}.")


def is_pointwise(identifier: str | Function | None) -> bool:
    """Returns whether an activation is known to treat each unit by itself.

    Args:
        identifier: as `get_activation` takes it.

    Returns:
        False for activations that mix units, and for functions that are not Keras' or JAX's own.
    """
    return get_activation(identifier) in _POINTWISE
