"""The reference loops: a `lax.scan` over the steps, and a Python loop for `unroll`."""

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.params import split_bias, split_gates
from gruflax.functional.step import project, step
from gruflax.functional.time import Steps, hold, start_anew


def scan_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call by `lax.scan`: `(outputs [..., t, u] or None, the last state [..., u])`."""

    def body(h, now):
        h = _one_step(call, h, now)
        return h, h if call.return_sequences else None

    h, states = lax.scan(body, call.initial_state, call.cleared().ordered().steps)
    return None if states is None else call.outputs(states), h


def unrolled_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call as `scan_loop` does, without a loop in the compiled program."""
    h, states, steps = call.initial_state, [], call.cleared().ordered().steps
    for index in range(call.time):
        h = _one_step(call, h, jax.tree.map(lambda array, index=index: array[index], steps))
        states.append(h)
    if not call.return_sequences:
        return None, h
    return call.outputs(jnp.stack(states) if states else h[None][:0]), h


def _one_step(call: Call, h: jax.Array, now: Steps) -> jax.Array:
    """Computes the state `[..., u]` after one step of a call; `now` is that step `[..., *]`."""
    h = start_anew(h, now.reset, call.reset_state)
    b, _ = split_bias(call.params, call.config)
    x = split_gates(
        project(now.inputs, call.params["kernel"], b, call.masks.inputs, call.precision)
    )
    new, _ = step(call.params, x, h, call.config, call.masks.recurrent, call.precision)
    return hold(new, h, now)
