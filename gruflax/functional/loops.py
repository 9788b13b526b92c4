"""The reference loops over time: `lax.scan`, and a Python loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


class Steps(NamedTuple):
    """A sequence in time-major form, in the order in which it is processed.

    Attributes:
        inputs: `[t, ..., f]`; zero at steps that do not count.
        valid: `[t, ...]` boolean, True where the step counts; None where every step does.
        reset: `[t, ...]` boolean, True where the state starts anew before the step; or None.
    """

    inputs: jax.Array
    valid: jax.Array | None = None
    reset: jax.Array | None = None


Step = Callable[[jax.Array, Steps], jax.Array]


def carry_through(
    step: Callable[[jax.Array, jax.Array], jax.Array], reset_state: jax.Array
) -> Step:
    """Wraps a step so that it starts anew at resets and stands still at masked steps.

    Args:
        step: `(state [..., u], x [..., f]) -> state [..., u]`.
        reset_state: `[..., u]`, what a reset goes back to.

    Returns:
        `(state, Steps of one step) -> state`.
    """

    def masked_step(state, now):
        if now.reset is not None:
            state = where_steps(now.reset, reset_state, state)
        new_state = step(state, now.inputs)
        return new_state if now.valid is None else where_steps(now.valid, new_state, state)

    return masked_step


def in_order(steps: Steps, go_backwards: bool) -> Steps:
    """Puts the steps in the order of processing, with zero inputs at masked steps.

    Args:
        steps: `[t, ...]`; the inputs may be a pytree.
        go_backwards: whether the last step comes first.

    Returns:
        The same steps, last first with `go_backwards`.
    """
    if go_backwards:
        steps = jax.tree.map(lambda array: jnp.flip(array, axis=0), steps)
    if steps.valid is None:
        return steps
    # A `where` on the state alone would let NaN through in the gradient, as zero times NaN.
    return steps._replace(inputs=where_steps(steps.valid, steps.inputs, 0))


def where_steps(condition: jax.Array, array: jax.Array, other: ArrayLike) -> jax.Array:
    """Selects whole steps.

    Args:
        condition: `[...]` boolean.
        array: `[..., *features]`.
        other: of the same shape, or a scalar.

    Returns:
        `[..., *features]` in the dtype of `array`.
    """
    condition = jnp.expand_dims(condition, range(condition.ndim, array.ndim))
    return jnp.where(condition, array, jnp.asarray(other, array.dtype))


def visible_outputs(
    last: jax.Array, outputs: jax.Array | None, shown: jax.Array | None
) -> jax.Array:
    """Picks what a layer returns as its output.

    Args:
        last: `[..., u]`, the output of the last step.
        outputs: `[t, ..., u]`, of every step, or None to return the last one.
        shown: `[t, ...]` boolean, False where the output becomes zeros; or None.

    Returns:
        `[t, ..., u]`, or `[..., u]` where `outputs` is None.
    """
    result = last if outputs is None else outputs
    if shown is None or shown.shape[0] == 0:
        return result
    return where_steps(shown[-1] if outputs is None else shown, result, 0)


def scan_loop(
    step: Step, initial_state: jax.Array, steps: Steps, keep_states: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Runs a step over a sequence with `lax.scan`.

    Args:
        step: `(state, Steps of one step) -> state`.
        initial_state: `[..., u]`.
        steps: the sequence, `[t, ...]`.
        keep_states: whether to return the state after every step.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.
    """

    def body(state, now):
        state = step(state, now)
        return state, state if keep_states else None

    return lax.scan(body, initial_state, steps)


def unrolled_loop(
    step: Step, initial_state: jax.Array, steps: Steps, keep_states: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Runs a step over a sequence with a Python loop: the same as `scan_loop`, without a loop in
    the compiled program. Compile time grows with the number of steps.

    Args:
        step: `(state, Steps of one step) -> state`.
        initial_state: `[..., u]`.
        steps: the sequence, `[t, ...]`.
        keep_states: whether to return the state after every step.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.
    """
    state, states = initial_state, []
    for index in range(steps.inputs.shape[0]):
        state = step(state, jax.tree.map(lambda array, index=index: array[index], steps))
        states.append(state)
    if not keep_states:
        return state, None
    return state, jnp.stack(states) if states else state[None][:0]
