"""Chunks of time: what the chunked loop is made of, and how long a chunk should be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.params import GATES


class Static(NamedTuple):
    """What a chunked loop is compiled for: hashable.

    Attributes:
        config: the GRU.
        precision: of the products.
        keep_states: whether to return the state after every step.
        chunk: steps a chunk.
        turned: whether the recurrent kernel is the left factor of the product of a step.
        turned_back: whether it is in the backward pass.
        batch_major: whether the inputs come with the batch first, and are turned chunk by chunk.
    """

    config: GRUConfig
    precision: Any
    keep_states: bool
    chunk: int
    turned: bool
    turned_back: bool
    batch_major: bool


class Inputs(NamedTuple):
    """What a chunked loop computes from: a pytree of arrays, or of their tangents.

    Attributes:
        params: of the GRU.
        initial_state: `[..., u]`.
        reset_state: `[..., u]`, what a reset goes back to.
        x: `[t, ..., f]`.
        masks: dropout masks.
    """

    params: Any
    initial_state: Any
    reset_state: Any
    x: Any
    masks: DropoutMasks


class Fixed(NamedTuple):
    """What is never differentiated.

    Attributes:
        valid: `[t, ...]` boolean, or None.
        reset: `[t, ...]` boolean, or None.
    """

    valid: jax.Array | None
    reset: jax.Array | None


def over_chunks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, steps: Any, chunk: int
) -> tuple[Any, Any]:
    """Scans over chunks of time; the last one may be shorter.

    Args:
        body: `(carry, steps of a chunk) -> (carry, results of each step)`.
        carry: what goes from chunk to chunk.
        steps: a pytree of `[t, ...]`.
        chunk: steps a chunk.

    Returns:
        `(carry, results)`, the results a pytree of `[t, ...]`.
    """
    time = jax.tree.leaves(steps)[0].shape[0]
    whole = time - time % chunk
    if whole <= chunk == time or not whole:
        return body(carry, steps)
    first = jax.tree.map(lambda a: a[:whole].reshape(whole // chunk, chunk, *a.shape[1:]), steps)
    carry, results = lax.scan(body, carry, first)
    results = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), results)
    if whole == time:
        return carry, results
    carry, rest = body(carry, jax.tree.map(lambda a: a[whole:], steps))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)


def by_chunk(x: jax.Array, batch_major: bool) -> tuple[jax.Array | None, jax.Array]:
    """Prepares inputs to be read chunk by chunk.

    Args:
        x: `[t, ..., f]`.
        batch_major: whether that is an array `[..., t, f]` moved, of which XLA then needs no copy.

    Returns:
        `(source, steps [t, ...])` for `read_chunk`: what all chunks read, and what is sliced.
    """
    if not batch_major:
        return None, x
    return jnp.moveaxis(x, 0, -2), jnp.arange(x.shape[0])


def read_chunk(source: jax.Array | None, steps: jax.Array) -> jax.Array:
    """Reads the inputs of a chunk.

    Args:
        source: of `by_chunk`.
        steps: `[k, ...]`, a slice of its steps.

    Returns:
        `[k, ..., f]`.
    """
    if source is None:
        return steps
    x = lax.dynamic_slice_in_dim(source, steps[0], steps.shape[0], source.ndim - 2)
    return jnp.moveaxis(x, -2, 0)


# What a chunk works on should stay in a core's cache. A sequence that nearly does is one chunk, for
# an outer loop copies every state once more.
_BLOCK_BYTES, _WHOLE_BYTES = 2**21, 5 * 2**20
_SHORTEST, _LONGEST = 8, 256


def chunk_length(time: int, batch: int, features: int, units: int, itemsize: int) -> int:
    """Chooses the steps of a chunk by their cost.

    A chunk is as long as its projected inputs fit the cache, at most 256 steps, where a sequence of
    no more than that may take 5 MiB; and at least so long that adding up the weights' gradients,
    once a chunk, costs less than the products.

    Args:
        time: number of steps.
        batch: number of sequences.
        features: size of an input step.
        units: size of the state.
        itemsize: bytes a number.

    Returns:
        The steps a chunk, at least 1 and at most `time`: a divisor of `time` where one is near.
    """
    step_bytes = max(1, GATES * batch * units * itemsize)
    if 0 < time <= min(_LONGEST, _WHOLE_BYTES // step_bytes):
        return time
    cached = _BLOCK_BYTES // step_bytes
    amortised = -(-(features + units) // max(1, batch))
    wanted = max(_SHORTEST, min(_LONGEST, cached), min(_LONGEST, amortised))
    return even_length(time, min(wanted, max(1, time)))


def even_length(time: int, wanted: int) -> int:
    """Returns the divisor of `time` nearest to a wanted length, or that itself where none is near.

    With a shorter last chunk, `over_chunks` copies everything once more.
    """
    divisors = [size for size in range(wanted // 2 + 1, 2 * wanted) if time and time % size == 0]
    return min(divisors, key=lambda size: abs(size - wanted), default=wanted)
