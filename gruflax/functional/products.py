"""The matrix products of the chunked loop, each in the form that XLA:CPU computes fastest."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.params import GATES


def flat_dot(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
    """Computes `x @ kernel` over a chunk as a product of two matrices.

    Transposed, with more axes, it would copy the larger factor. The batch goes first: where it is
    sharded, the rows of the matrix are too.

    Args:
        x: `[k, ..., f]`.
        kernel: `[f, n u]`.
        precision: of the product.

    Returns:
        `[k, ..., n u]`.
    """
    rows = jnp.moveaxis(x, 0, -2)
    flat = rows.reshape(math.prod(rows.shape[:-1]), x.shape[-1])
    product = jnp.dot(flat, kernel, precision=precision)
    return jnp.moveaxis(product.reshape(*rows.shape[:-1], kernel.shape[-1]), -2, 0)


def turned_dot(
    state: jax.Array, turned_kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `state @ turned_kernel.T` with the kernel as the left factor.

    Args:
        state: `[..., u]`.
        turned_kernel: `[3u, u]`, transposed outside the loop: XLA would fold a transpose inside it
            into the product.
        precision: of the product.

    Returns:
        `[..., 3u]`.
    """
    contracted = (((1,), (state.ndim - 1,)), ((), ()))
    product = lax.dot_general(turned_kernel, state, contracted, precision=precision)
    # Gate by gate: a product that is transposed as a whole, XLA turns back.
    gates = jnp.split(product, GATES)
    return jnp.concatenate([jnp.moveaxis(gate, 0, -1) for gate in gates], axis=-1)


def turned_back_dot(
    state: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `state @ kernel` such that its transpose has the kernel as the left factor.

    Args:
        state: `[..., u]`.
        kernel: `[u, n u]`.
        precision: of the product.

    Returns:
        `[..., n u]`.
    """
    # In two parts, for the same reason.
    parts = jnp.split(state, [state.shape[-1] // 2], axis=-1)
    columns = jnp.concatenate([jnp.moveaxis(part, -1, 0) for part in parts])
    return lax.dot_general(columns, kernel, (((0,), (0,)), ((), ())), precision=precision)


# Measured: with more rows, or fewer units forward, the plain form is as fast or faster.
_MOST_ROWS, _WIDE_UNITS = 32, 512


def choose_products(rows: int, units: int) -> tuple[bool, bool]:
    """Chooses whether the recurrent kernel is the left factor of a step's product.

    Args:
        rows: number of sequences.
        units: size of the state.

    Returns:
        `(forward, backward)`: True on a CPU with few rows, where XLA would rearrange the kernel at
        every step; forward only where the kernel is large, for it costs a transposed copy of it.
    """
    few = 1 < rows <= _MOST_ROWS and jax.default_backend() == "cpu"
    return few and units >= _WIDE_UNITS, few
