"""The matrix products of the chunked loop, on CPUs each in the form that XLA computes fastest."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.params import GATES
from gruflax.functional.step import Dot


def flat_dot(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
    """Computes `x kernel` over a chunk `[k, ..., f]` as a product of two matrices: `[k, ..., n u]`.

    Transposed, with more axes, it would copy the larger factor. The batch goes first: where it is
    sharded, the rows of the matrix are too.
    """
    rows = jnp.moveaxis(x, 0, -2)
    flat = rows.reshape(math.prod(rows.shape[:-1]), x.shape[-1])
    product = jnp.dot(flat, kernel, precision=precision)
    return jnp.moveaxis(product.reshape(*rows.shape[:-1], kernel.shape[-1]), -2, 0)


def kernel_first_dot(
    state: jax.Array, transposed_kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., 3u]` with the kernel, transposed to `[3u, u]`, as the left factor.

    It must be transposed outside of the loop: XLA would fold a transpose inside into the product.
    """
    contracted = (((1,), (state.ndim - 1,)), ((), ()))
    product = lax.dot_general(transposed_kernel, state, contracted, precision=precision)
    # Gate by gate: XLA would undo a transpose of all of the product.
    gates = jnp.split(product, GATES)
    return jnp.concatenate([jnp.moveaxis(gate, 0, -1) for gate in gates], axis=-1)


def kernel_first_backward_dot(
    state: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., n u]` such that its transpose has the kernel as the left factor."""
    # In two parts, for the same reason.
    parts = jnp.split(state, [state.shape[-1] // 2], axis=-1)
    columns = jnp.concatenate([jnp.moveaxis(part, -1, 0) for part in parts])
    return lax.dot_general(columns, kernel, (((0,), (0,)), ((), ())), precision=precision)


def transposed_dot(
    state: jax.Array, transposed_kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., 3u]` in the plain form, of the kernel transposed to `[3u, u]`."""
    return jnp.dot(state, transposed_kernel.T, precision=precision)


def on_cpus(dot: Dot, elsewhere: Dot = jnp.dot) -> Dot:
    """Returns a product that has one form on CPUs, and another where it is lowered for others."""

    def product(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
        here, there = (functools.partial(each, precision=precision) for each in (dot, elsewhere))
        return lax.platform_dependent(x, kernel, cpu=here, default=there)

    return product


def chunk_reader(
    call: Call, by_chunk: bool = True
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """Returns how a chunk gets its inputs `[k, ..., f]`, and what of `[t, ...]` is sliced for it.

    Inputs with the batch first are transposed chunk by chunk, so that no time-major copy exists;
    those that go backwards are copied anyway.
    """
    if not by_chunk or call.time_major or call.go_backwards:
        return lambda x: x, call.in_order(call.steps.inputs)

    def read(steps: jax.Array) -> jax.Array:
        x = lax.dynamic_slice_in_dim(call.steps.inputs, steps[0], steps.shape[0], call.time_axis)
        return jnp.moveaxis(x, call.time_axis, 0)

    return read, jnp.arange(call.time)
