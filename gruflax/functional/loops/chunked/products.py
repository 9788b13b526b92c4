"""The matrix products of the chunked loop, in the forms that XLA computes fastest on CPUs."""

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

    The transpose of a product with more axes would copy the larger factor. The batch comes before
    the steps, so that the rows of the matrix are sharded like the batch.
    """
    rows = jnp.moveaxis(x, 0, -2)
    flat = rows.reshape(math.prod(rows.shape[:-1]), x.shape[-1])
    product = jnp.dot(flat, kernel, precision=precision)
    return jnp.moveaxis(product.reshape(*rows.shape[:-1], kernel.shape[-1]), -2, 0)


def kernel_first_dot(
    state: jax.Array, transposed_kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., 3u]` with the kernel, transposed to `[3u, u]`, as the left factor.

    The kernel must be transposed outside of the loop, because XLA would fold a transpose inside the
    loop into the product.
    """
    contracted = (((1,), (state.ndim - 1,)), ((), ()))
    product = lax.dot_general(transposed_kernel, state, contracted, precision=precision)
    # Each gate is transposed alone, because XLA would undo a transpose of the whole product.
    gates = jnp.split(product, GATES)
    return jnp.concatenate([jnp.moveaxis(gate, 0, -1) for gate in gates], axis=-1)


def kernel_first_backward_dot(
    state: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., n u]` so that its transpose has the kernel as the left factor."""
    # The state is transposed in two parts, because XLA would undo a transpose of the whole.
    parts = jnp.split(state, [state.shape[-1] // 2], axis=-1)
    columns = jnp.concatenate([jnp.moveaxis(part, -1, 0) for part in parts])
    return lax.dot_general(columns, kernel, (((0,), (0,)), ((), ())), precision=precision)


def transposed_dot(
    state: jax.Array, transposed_kernel: jax.Array, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Computes `h R` `[..., 3u]` plainly, from a kernel that is transposed to `[3u, u]`."""
    return jnp.dot(state, transposed_kernel.T, precision=precision)


def on_cpus(dot: Dot, elsewhere: Dot = jnp.dot) -> Dot:
    """Returns a product that has one form on CPUs and another one on other platforms."""

    def product(x: jax.Array, kernel: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
        here, there = (functools.partial(each, precision=precision) for each in (dot, elsewhere))
        return lax.platform_dependent(x, kernel, cpu=here, default=there)

    return product


def chunk_reader(
    call: Call, by_chunk: bool = True
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """Returns a function that reads a chunk's inputs `[k, ..., f]`, and the array to slice for it.

    Inputs with the batch first are transposed chunk by chunk, so that there is no time-major copy
    of all. Then the array to slice holds the indices of the steps. Backwards there is a copy
    anyway.
    """
    if not by_chunk or call.time_major or call.go_backwards:
        return lambda x: x, call.in_order(call.steps.inputs)

    def read(steps: jax.Array) -> jax.Array:
        x = lax.dynamic_slice_in_dim(call.steps.inputs, steps[0], steps.shape[0], call.time_axis)
        return jnp.moveaxis(x, call.time_axis, 0)

    return read, jnp.arange(call.time)
