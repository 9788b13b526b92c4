"""Keras' activation functions, and the look-up of them by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gruflax.functional.checks import brief


Function = Callable[[jax.Array], jax.Array]


def linear(x: jax.Array) -> jax.Array:
    """Returns `x`."""
    return x


def hard_shrink(x: jax.Array) -> jax.Array:
    """Returns `x` where `|x| > 0.5`, else 0."""
    return jnp.where(jnp.abs(x) > 0.5, x, jnp.zeros_like(x))


def soft_shrink(x: jax.Array) -> jax.Array:
    """Moves `x` towards 0 by 0.5, but not past 0."""
    return jnp.sign(x) * jax.nn.relu(jnp.abs(x) - 0.5)


def gelu(x: jax.Array) -> jax.Array:
    """Returns `x Phi(x)` exactly, where `jax.nn.gelu` by default approximates."""
    return jax.nn.gelu(x, approximate=False)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Returns `x` where it is positive, else `0.2 x`, with Keras' slope."""
    return jax.nn.leaky_relu(x, negative_slope=0.2)


def hard_sigmoid_v1(x: jax.Array) -> jax.Array:
    """TensorFlow 1's piecewise linear sigmoid, `clip(0.2 x + 0.5, 0, 1)`.

    Keras 3 gives the name "hard_sigmoid" to `relu6(x + 3) / 6`.
    """
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


def tanh_shrink(x: jax.Array) -> jax.Array:
    """Returns `x - tanh(x)`."""
    return x - jnp.tanh(x)


def sparsemax(x: jax.Array) -> jax.Array:
    """Projects `x` [..., u] onto the simplex, over the last axis.

    The sparsemax of Keras 3.15 adds up the cumulative sums of the support instead of its values, so
    that its results do not sum to 1. These do.

    Source: Martins and Astudillo, "From Softmax to Sparsemax", arXiv:1602.02068.
    """
    ordered = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
    counts = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    support = 1 + counts * ordered > jnp.cumsum(ordered, axis=-1)
    kept = jnp.where(support, ordered, jnp.zeros_like(ordered)).sum(axis=-1, keepdims=True)
    return jax.nn.relu(x - (kept - 1) / support.sum(axis=-1, keepdims=True).astype(x.dtype))


_JAX_NAMES = (
    *("celu", "elu", "hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "log_softmax"),
    *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "sparse_plus"),
    *("sparse_sigmoid", "squareplus"),
)
_OTHERS: dict[str, Function] = {
    "exponential": jnp.exp,
    "gelu": gelu,
    "hard_shrink": hard_shrink,
    "hard_swish": jax.nn.hard_silu,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "soft_shrink": soft_shrink,
    "softsign": jax.nn.soft_sign,
    "sparsemax": sparsemax,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "tanh_shrink": tanh_shrink,
}
# Keras' names; first those that JAX has too.
ACTIVATIONS: dict[str, Function] = {name: getattr(jax.nn, name) for name in _JAX_NAMES} | _OTHERS

# Pointwise functions compute each unit from that unit alone. `softmax` and the like mix units, and
# a user's own function may do so.
_MIXING = {jax.nn.log_softmax, jax.nn.softmax, sparsemax}
_POINTWISE = {hard_sigmoid_v1, *ACTIVATIONS.values()} - _MIXING

# Keras has two names for some functions; this has the first one of each.
_NAMES = {function: name for name, function in reversed(ACTIVATIONS.items())}
_SPELLINGS = {name.replace("_", ""): _NAMES[function] for name, function in ACTIVATIONS.items()}


def named_activation(
    identifier: str | Function | None, field: str = "activation"
) -> str | Function:
    """Returns the name of an activation, so that equal ones compare equal and can be copied."""
    if identifier is None:
        return "linear"
    if isinstance(identifier, str):
        name = _SPELLINGS.get(identifier.replace("_", "").lower())
        if name is None:
            raise ValueError(f"{field} must be one of {sorted(ACTIVATIONS)}, got {identifier!r}.")
        return name
    if not callable(identifier):
        raise TypeError(f"{field} must be a name, a callable or None, got {brief(identifier)}.")
    try:
        # An instance of a hashable class may hold what is not, so that only hashing it can tell.
        hash(identifier)
    except TypeError as error:
        raise TypeError(
            f"{field} must be hashable, for it is static under jit, got {brief(identifier)}."
        ) from error
    return _NAMES.get(identifier, identifier)


def get_activation(identifier: str | Function | None) -> Function:
    """Looks up an activation function, which takes and returns an array `[..., u]`.

    Args:
        identifier: a name of Keras, a callable, which is returned as it is, or None for linear.

    Returns:
        The function.

    Raises:
        TypeError: `identifier` is neither a name, a hashable callable nor None.
        ValueError: the name is unknown; the message lists the known ones.

    Source: the names and defaults of `keras.activations`.
    """
    found = named_activation(identifier)
    return ACTIVATIONS[found] if isinstance(found, str) else found


def activate(field: str, identifier: str | Function | None, x: jax.Array) -> jax.Array:
    """Applies an activation to `x` [..., u], or raises a ValueError that names its field."""
    result = jnp.asarray(get_activation(identifier)(x))
    if jax.typeof(result).weak_type:
        # The function made it from Python's numbers, which JAX lets take any dtype.
        result = result.astype(x.dtype)
    if (result.shape, result.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"{field} must return an array like its argument, {x.dtype}{list(x.shape)}, got "
            f"{result.dtype}{list(result.shape)}."
        )
    return result


def is_pointwise(*identifiers: str | Function | None) -> bool:
    """Returns whether activations are known to be pointwise; only Keras' and JAX's own can be."""
    return all(get_activation(each) in _POINTWISE for each in identifiers)
