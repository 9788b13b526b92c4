"""Runs any Flax cell over a sequence, with the masks and resets of a GRU, for linen and for NNX."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gruflax.functional.checks import check_reset
from gruflax.functional.masks import combined_mask, steps_to_mask, where_steps
from gruflax.functional.sharding import sharded_like, vary_with
from gruflax.functional.time import Steps
from gruflax.layers.nesting import State, cast_states, fitted_states


# The output of a cell at one step: an array `[..., u]`, or any pytree of arrays.
Output = State
# One step of a cell: `(state, x) -> (state, output)`.
Step = Callable[[State, jax.Array], tuple[State, Output]]
# Calls `body(step, carry, now)` at every step: `loop(body, carry, steps) -> (carry, outputs)`.
Loop = Callable[[Callable[..., Any], State, Steps], tuple[State, Output]]


# Zoneout needs another key at every step of a loop, and dropout the same one at all of them. The
# cell may lie deep inside of a user's cell, which hands on no index of the step. A random stream
# for the steps would be dropped by Flax's transformations, which do not name it, and a variable of
# the cell would be mapped by them.
_STEP: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at_step(index: jax.Array) -> Iterator[None]:
    """Tells the cells that are called meanwhile, however deep, which step of a loop this is."""
    token = _STEP.set(index)
    try:
        yield
    finally:
        _STEP.reset(token)


def step_key(key: jax.Array | None) -> jax.Array | None:
    """Returns a key for the current step, made from a key that is the same at every step."""
    index = _STEP.get()
    return key if key is None or index is None else jax.random.fold_in(key, index)


def time_axis(num_feature_axes: int, time_major: bool) -> int:
    """Returns which axis of the inputs is the time axis."""
    return 0 if time_major else -(num_feature_axes + 1)


def step_shape(
    input_shape: tuple[int, ...], num_feature_axes: int, time_major: bool
) -> tuple[int, ...]:
    """Returns the shape `(..., *features)` of one step of inputs of shape `input_shape`."""
    shape = list(input_shape)
    if len(shape) < num_feature_axes + 1:
        raise ValueError(
            f"inputs must have a time axis and {num_feature_axes} feature axes at least, "
            f"got shape {tuple(shape)}."
        )
    del shape[time_axis(num_feature_axes, time_major)]
    return tuple(shape)


def loop_cell(
    loop: Loop,
    abstract_step: Step,
    inputs: ArrayLike,
    own: State,
    num_feature_axes: int,
    variables: State = (),
    *,
    initial_state: State = None,
    mask: ArrayLike | None = None,
    seq_lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reset_state: State = None,
    go_backwards: bool = False,
    time_major: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
) -> tuple[Output, State]:
    """Runs any cell over a sequence, with the masks and resets of a GRU.

    `own` is the cell's own initial state, and `variables` are all arrays that the cell uses. At
    masked steps before the first valid step, the output is the carried state if the cell's state
    is a single array with the shape and dtype of its output; otherwise the output is zeros.
    """
    check_reset(reset, reset_state)
    beginnings = (
        own if given is None else fitted_states(name, given, own)
        for name, given in (("initial_state", initial_state), ("reset_state", reset_state))
    )
    inputs = jnp.moveaxis(jnp.asarray(inputs), time_axis(num_feature_axes, time_major), 0)
    time, batch_shape = inputs.shape[0], inputs.shape[1 : inputs.ndim - num_feature_axes]
    axis = 0 if time_major else len(batch_shape)
    valid = combined_mask(mask, seq_lengths, batch_shape, time, axis)
    marks = (valid, steps_to_mask("reset", reset, batch_shape, time, axis))
    valid, starts = (None if each is None else jnp.moveaxis(each, axis, 0) for each in marks)
    if valid is not None:
        inputs = where_steps(valid, inputs, 0)
    steps = Steps(inputs, valid, starts)
    if go_backwards:
        steps = jax.tree.map(lambda array: jnp.flip(array, axis=0), steps)
    spread = functools.partial(_spread, inputs, len(batch_shape), (variables, steps))
    own, output = _settled(abstract_step, spread(own), inputs)
    state, start = (spread(cast_states(each, own)) for each in beginnings)
    carry, fresh = ((before, spread(_first_output(before, output))) for before in (state, start))

    def body(step, carry, now):
        if now.reset is not None:
            carry = _select(now.reset, fresh, carry)
        new = step(carry[0], now.inputs)
        if now.valid is not None:
            new = _select(now.valid, new, carry)
        return new, new[1] if return_sequences else None

    (state, last), outputs = loop(body, carry, steps)
    outputs = last if outputs is None else outputs
    if zero_output_for_mask and steps.valid is not None and time:
        shown = steps.valid if return_sequences else steps.valid[-1]
        outputs = jax.tree.map(lambda each: where_steps(shown, each, 0), outputs)
    if return_sequences and not time_major:
        outputs = jax.tree.map(lambda each: jnp.moveaxis(each, 0, len(batch_shape)), outputs)
    return outputs, state


def _spread(inputs: jax.Array, batch_axes: int, others: State, states: State) -> State:
    """Shards states like the batch axes of inputs `[t, ..., f]`, and lets them vary like `others`.

    JAX requires that the carry of a loop has the same sharding before and after every step.
    """

    def spread(state):
        axes = range(1, 1 + min(batch_axes, state.ndim))
        return vary_with(sharded_like(jnp.asarray(state), inputs, axes), others)

    return jax.tree.map(spread, states)


def _settled(step: Step, state: State, inputs: jax.Array) -> tuple[State, Output]:
    """Casts a state to the dtypes that a step returns: the state, and the types of the output."""

    def first(state, inputs):
        # The sum has the type of a step, sharding included, even where there are no steps.
        return step(state, inputs.sum(axis=0, dtype=inputs.dtype))

    types, output = jax.eval_shape(first, state, inputs)
    if jax.tree.map(jnp.result_type, types) == jax.tree.map(jnp.result_type, state):
        return state, output
    state = cast_states(state, types)
    return state, jax.eval_shape(first, state, inputs)[1]


def _first_output(state: State, types: Output) -> Output:
    """Returns the output for the steps before a cell has computed one: its state, or zeros."""
    leaves = [jax.tree.leaves(tree) for tree in (state, types)]
    of_state, of_output = ([(each.shape, each.dtype) for each in tree] for tree in leaves)
    if len(of_state) == 1 and of_state == of_output:
        return jax.tree.unflatten(jax.tree.structure(types), leaves[0])
    return jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), types)


def _select(condition: jax.Array, chosen: State, other: State) -> State:
    return jax.tree.map(lambda one, two: where_steps(condition, one, two), chosen, other)
