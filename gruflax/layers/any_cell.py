"""Any cell over a sequence, and several on top of each other, in either module system."""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.checks import check_reset
from gruflax.functional.masks import combined_mask, steps_to_mask, where_steps
from gruflax.functional.sharding import sharded_like, vary_with
from gruflax.layers.fields import drops
from gruflax.layers.protocols import State
from gruflax.layers.states import cast_states, fitted_states


class Steps(NamedTuple):
    """What a cell meets, `[t, ...]` in the order of processing: zero inputs at masked steps."""

    inputs: jax.Array
    valid: jax.Array | None = None
    reset: jax.Array | None = None


# What cells give at a step: an array `[..., u]`, or any pytree of arrays.
Output = Any
# One step of a cell: `(state, x) -> (state, output)`.
Step = Callable[[State, jax.Array], tuple[State, Output]]
Sequence = Callable[..., tuple[Output, State]]


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
    """Returns a key of this step alone, of one that is the same at every step of a loop."""
    index = _STEP.get()
    return key if key is None or index is None else jax.random.fold_in(key, index)


def time_axis(num_feature_axes: int, time_major: bool) -> int:
    """Returns the axis of the inputs that is time."""
    return 0 if time_major else -(num_feature_axes + 1)


def step_shape(inputs: ArrayLike, num_feature_axes: int, time_major: bool) -> tuple[int, ...]:
    """Returns the shape of one step of the inputs, `(..., *features)`."""
    shape = list(np.shape(inputs))
    if len(shape) < num_feature_axes + 1:
        raise ValueError(
            f"inputs must have a time axis and {num_feature_axes} feature axes at least, "
            f"got shape {tuple(shape)}."
        )
    del shape[time_axis(num_feature_axes, time_major)]
    return tuple(shape)


def loop_cell(
    loop: Callable[[Callable[..., Any], Any, Steps], tuple[Any, Any]],
    abstract_step: Step,
    inputs: ArrayLike,
    own: State,
    num_feature_axes: int,
    variables: Any = (),
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

    `own` is the cell's own initial state, `variables` are all arrays that it computes from. A
    masked step before the first valid one has the carried state as its output if the cell's state
    is one array like its output, else zeros.
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


def taken_options(cell: Any, **options: Any) -> dict[str, Any]:
    """Returns the options that a cell's call takes; by `**kwargs` it takes those that are set.

    Raises a TypeError where one is set that a GRU cell with dropout would not learn of.
    """
    taken = inspect.signature(type(cell).__call__).parameters
    by_name = {name: value for name, value in options.items() if name in taken}
    others = {
        name: value
        for name, value in options.items()
        if name not in taken and value is not None and value is not False
    }
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return by_name | others
    if others and hasattr(cell, "recurrent_dropout") and drops(cell):
        raise TypeError(
            f"the call of {type(cell).__name__} must take {sorted(others)} to hand it to the step."
        )
    return by_name


def run_stacked(
    sequences: list[Sequence],
    own: tuple,
    inputs: ArrayLike,
    num_feature_axes: int,
    *,
    initial_state: State = None,
    reset_state: State = None,
    go_backwards: bool = False,
    time_major: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    **options: Any,
) -> tuple[Output, tuple]:
    """Runs cells over a sequence, one after the other; `own` are their own initial states."""
    initial, fresh = (
        [None] * len(sequences) if given is None else fitted_states(name, given, own)
        for name, given in (("initial_state", initial_state), ("reset_state", reset_state))
    )
    states, outputs = [], jnp.asarray(inputs)
    for index, sequence in enumerate(sequences):
        last = index == len(sequences) - 1
        if go_backwards and index:
            # The cell below gave its outputs in the order of processing.
            outputs = jnp.flip(outputs, time_axis(num_feature_axes, time_major))
        outputs, state = sequence(
            outputs,
            initial_state=initial[index],
            reset_state=fresh[index],
            go_backwards=go_backwards,
            time_major=time_major,
            return_sequences=return_sequences or not last,
            zero_output_for_mask=zero_output_for_mask and last,
            **options,
        )
        states.append(state)
    return outputs, tuple(states)


def _spread(inputs: jax.Array, batch_axes: int, others: Any, states: State) -> State:
    """Lays states over devices as the batch of inputs `[t, ..., f]` is, and as `others` vary.

    A loop's carry must have from the first step on what the steps give it.
    """

    def spread(state):
        axes = range(1, 1 + min(batch_axes, state.ndim))
        return vary_with(sharded_like(jnp.asarray(state), inputs, axes), others)

    return jax.tree.map(spread, states)


def _settled(step: Step, state: State, inputs: jax.Array) -> tuple[State, Output]:
    """Casts a state to the dtypes that a step gives it; returns the types of the output too."""

    def first(state, inputs):
        # Of the type of a step, which may say how it lies on a mesh; there may be no step.
        return step(state, inputs.sum(axis=0, dtype=inputs.dtype))

    types, output = jax.eval_shape(first, state, inputs)
    if jax.tree.map(jnp.result_type, types) == jax.tree.map(jnp.result_type, state):
        return state, output
    state = cast_states(state, types)
    return state, jax.eval_shape(first, state, inputs)[1]


def _first_output(state: State, types: Output) -> Output:
    """Returns what a cell's output is before it has made one."""
    leaves = [jax.tree.leaves(tree) for tree in (state, types)]
    of_state, of_output = ([(each.shape, each.dtype) for each in tree] for tree in leaves)
    if len(of_state) == 1 and of_state == of_output:
        return jax.tree.unflatten(jax.tree.structure(types), leaves[0])
    return jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), types)


def _select(condition: jax.Array, chosen: State, other: State) -> State:
    return jax.tree.map(lambda one, two: where_steps(condition, one, two), chosen, other)
