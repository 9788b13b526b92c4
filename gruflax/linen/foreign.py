"""Any Flax RNN cell over a sequence, with the masks and resets of a GRU."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.loops import Steps, in_order, visible_outputs, where_steps
from gruflax.functional.masks import steps_to_mask, valid_steps
from gruflax.linen.state import check_states


def time_axis(cell: nn.RNNCellBase, time_major: bool) -> int:
    """Returns the axis of the inputs that is time."""
    return 0 if time_major else -(cell.num_feature_axes + 1)


def initial_carry(cell: nn.RNNCellBase, inputs: ArrayLike, time_major: bool) -> Any:
    """Returns a cell's state before the first step of `inputs`.

    Args:
        cell: the cell.
        inputs: `[..., t, *features]`, or `[t, ..., *features]` with `time_major`.
        time_major: whether time comes first.

    Returns:
        The pytree that `cell.initialize_carry` gives.

    Raises:
        ValueError: the inputs have too few axes.
    """
    shape = list(np.shape(inputs))
    if len(shape) < cell.num_feature_axes + 1:
        raise ValueError(
            f"inputs must have a time axis and {cell.num_feature_axes} feature axes at least, "
            f"got shape {tuple(shape)}."
        )
    del shape[time_axis(cell, time_major)]
    # Flax' cells begin with zeros unless told otherwise; nn.RNN uses this key too.
    return cell.initialize_carry(jax.random.key(0), tuple(shape))


def cell_sequence(
    cell: nn.RNNCellBase,
    inputs: ArrayLike,
    *,
    initial_state: Any = None,
    mask: ArrayLike | None = None,
    seq_lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reset_state: Any = None,
    training: bool = False,
    go_backwards: bool = False,
    time_major: bool = False,
    unroll: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
) -> tuple[jax.Array, Any]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind.

    The "dropout" stream gives the same key at every step. A masked step before the first valid one
    has the carried state as its output if the cell's state is one array like its output, else
    zeros.

    Args:
        cell: bound to a module that is running; `cell(state, x) -> (state, output)`.
        inputs: `[..., t, *features]`, or `[t, ..., *features]` with `time_major`.
        initial_state: a pytree as `cell.initialize_carry` gives it; None is that one.
        mask: `[..., t]` or `[..., t, 1]`.
        seq_lengths: `[...]` integers.
        reset: `[..., t]` or `[..., t, 1]`.
        reset_state: what a reset goes back to; None is the initial state.
        training: handed to cells whose call takes it.
        go_backwards: processes the last step first.
        time_major: time comes first.
        unroll: a Python loop instead of `nn.scan`.
        return_sequences: returns the output of every step.
        zero_output_for_mask: outputs are zeros at masked steps.

    Returns:
        `(outputs, state)`.

    Raises:
        ValueError: a shape does not fit; the message names the argument.
    """
    zeros = initial_carry(cell, inputs, time_major)
    state = _carry("initial_state", initial_state, zeros)
    start = state if reset_state is None else _carry("reset_state", reset_state, zeros)
    axis = time_axis(cell, time_major)
    inputs = jnp.moveaxis(jnp.asarray(inputs), axis, 0)
    time, batch_shape = inputs.shape[0], inputs.shape[1 : inputs.ndim - cell.num_feature_axes]
    steps = Steps(
        inputs,
        valid_steps(mask, seq_lengths, batch_shape, time, time_major),
        steps_to_mask("reset", reset, batch_shape, time, time_major),
    )
    steps = in_order(steps, go_backwards)
    options = {"training": training} if _takes_training(cell) else {}
    carry, fresh = (
        (before, _first_output(cell, before, inputs, options)) for before in (state, start)
    )

    def body(cell, carry, now):
        if now.reset is not None:
            carry = _select(now.reset, fresh, carry)
        new = cell(carry[0], now.inputs, **options)
        if now.valid is not None:
            new = _select(now.valid, new, carry)
        return new, new[1] if return_sequences else None

    run = _unrolled if unroll else _scanned
    (state, last), outputs = run(body, cell, carry, steps)
    outputs = visible_outputs(last, outputs, steps.valid if zero_output_for_mask else None)
    if return_sequences and not time_major:
        outputs = jnp.moveaxis(outputs, 0, len(batch_shape))
    return outputs, state


def _scanned(body: Any, cell: nn.RNNCellBase, carry: Any, steps: Steps) -> tuple[Any, Any]:
    scan = nn.scan(
        body, variable_broadcast="params", split_rngs={"params": False, "dropout": False}
    )
    return scan(cell, carry, steps)


def _unrolled(body: Any, cell: nn.RNNCellBase, carry: Any, steps: Steps) -> tuple[Any, Any]:
    outputs = []
    for index in range(steps.inputs.shape[0]):
        now = jax.tree.map(lambda array, index=index: array[index], steps)
        carry, output = body(cell, carry, now)
        outputs.append(output)
    if not outputs:
        return carry, carry[1][None][:0]
    return carry, None if outputs[0] is None else jnp.stack(outputs)


def _carry(name: str, given: Any, zeros: Any) -> Any:
    """Fits a state into a cell's nesting: Keras puts the one state of a cell into a list."""
    if given is None:
        return zeros
    check_states(given, zeros, name)
    leaves = [
        jnp.asarray(leaf).astype(zero.dtype)
        for leaf, zero in zip(jax.tree.leaves(given), jax.tree.leaves(zeros), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(zeros), leaves)


def _first_output(
    cell: nn.RNNCellBase, state: Any, inputs: jax.Array, options: dict[str, Any]
) -> jax.Array:
    """What a cell's output is before it has made one."""
    key = jax.random.key(0)
    x = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    alone = cell.clone(parent=None, name=None)
    init = alone.init_with_output
    ((_, output), _) = jax.eval_shape(
        lambda state, x: init({"params": key, "dropout": key}, state, x, **options), state, x
    )
    leaves = jax.tree.leaves(state)
    if len(leaves) == 1 and (leaves[0].shape, leaves[0].dtype) == (output.shape, output.dtype):
        return leaves[0]
    return jnp.zeros(output.shape, output.dtype)


def _select(condition: jax.Array, chosen: Any, other: Any) -> Any:
    return jax.tree.map(lambda one, two: where_steps(condition, one, two), chosen, other)


def _takes_training(cell: nn.RNNCellBase) -> bool:
    return "training" in inspect.signature(type(cell).__call__).parameters
