"""Time: what holds at every step of any loop, and chunks of time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.masks import where_steps


Steps = tuple[jax.Array, jax.Array | None, jax.Array | None, jax.Array | None]


def steps_of(call: Call) -> Steps:
    """Returns what an ordered call has of each step: x, valid, reset and updated, `[t, ...]`."""
    return call.inputs, call.valid, call.reset, call.updated


def start_anew(h: jax.Array, reset: jax.Array | None, fresh: jax.Array) -> jax.Array:
    """Returns the state that a step begins with: `fresh` where it is reset."""
    return h if reset is None else where_steps(reset, fresh, h)


def hold(
    new: jax.Array, h: jax.Array, valid: jax.Array | None, updated: jax.Array | None
) -> jax.Array:
    """Returns the state after a step: the old one at masked steps and for zoned out units."""
    new = new if updated is None else jnp.where(updated, new, h)
    return new if valid is None else where_steps(valid, new, h)


def over_chunks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, steps: Any, chunk: int
) -> tuple[Any, Any]:
    """Scans `(carry, steps [k, ...]) -> (carry, results [k, ...])` over chunks of `steps` [t, ...].

    The last chunk may be shorter. Returns `(carry, results [t, ...])`.
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


def even_length(time: int, wanted: int) -> int:
    """Returns the divisor of `time` nearest to a wanted length, or that itself where none is near.

    With a shorter last chunk, `over_chunks` copies everything once more.
    """
    divisors = [size for size in range(wanted // 2 + 1, 2 * wanted) if time and time % size == 0]
    return min(divisors, key=lambda size: abs(size - wanted), default=wanted)
