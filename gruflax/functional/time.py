"""The arrays that a loop reads step by step, and scans over chunks of steps."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.masks import where_steps


Carry = TypeVar("Carry")
Chunk = TypeVar("Chunk")
Results = TypeVar("Results")


class Steps(NamedTuple):
    """The arrays of a call that have a time axis, or one step of them; absent ones are None.

    Attributes:
        inputs: `[..., t, f]`.
        valid: `[..., t]` boolean, False where the step is masked and the state stays what it was.
        reset: `[..., t]` boolean, True where the state starts anew before the step.
        zoneout_mask: `[..., t, u]` boolean, True where zoneout lets a unit take its new state.
    """

    inputs: jax.Array
    valid: jax.Array | None = None
    reset: jax.Array | None = None
    zoneout_mask: jax.Array | None = None


def start_anew(h: jax.Array, reset: jax.Array | None, fresh: jax.Array) -> jax.Array:
    """Returns the state that a step begins with: `fresh` where it is reset."""
    return h if reset is None else where_steps(reset, fresh, h)


def hold(new: jax.Array, h: jax.Array, steps: Steps) -> jax.Array:
    """Returns the state after a step: the old one at masked steps and for zoned out units."""
    new = new if steps.zoneout_mask is None else jnp.where(steps.zoneout_mask, new, h)
    return new if steps.valid is None else where_steps(steps.valid, new, h)


def over_chunks(
    body: Callable[[Carry, Chunk], tuple[Carry, Results]], carry: Carry, steps: Chunk, chunk: int
) -> tuple[Carry, Results]:
    """Scans `(carry, steps [k, ...]) -> (carry, results [k, ...])` over chunks of `steps` [t, ...].

    The last chunk may be shorter. Returns `(carry, results [t, ...])`.
    """
    time = jax.tree.leaves(steps)[0].shape[0]
    even = time - time % chunk
    if even <= chunk == time or not even:
        return body(carry, steps)
    chunks = jax.tree.map(lambda a: a[:even].reshape(even // chunk, chunk, *a.shape[1:]), steps)
    carry, results = lax.scan(body, carry, chunks)
    results = jax.tree.map(lambda a: a.reshape(even, *a.shape[2:]), results)
    if even == time:
        return carry, results
    carry, rest = body(carry, jax.tree.map(lambda a: a[even:], steps))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)


def even_length(time: int, wanted: int) -> int:
    """Returns the divisor of `time` nearest to a wanted length, or that length if none is near.

    Without a shorter last chunk, `over_chunks` saves a copy of all results.
    """
    divisors = [size for size in range(wanted // 2 + 1, 2 * wanted) if time and time % size == 0]
    return min(divisors, key=lambda size: abs(size - wanted), default=wanted)
