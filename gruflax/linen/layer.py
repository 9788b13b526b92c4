"""One call of a recurrent layer: what `GRU` and `RNN` share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.linen.foreign import cell_sequence, initial_carry
from gruflax.linen.state import load_state, store_state
from gruflax.named import regularizers


def call_layer(
    layer: nn.Module, cell: nn.RNNCellBase, inputs: ArrayLike, initial_state: Any, **options: Any
) -> Any:
    """Runs a layer's cell over a sequence, keeps its state and sows its activity loss.

    Args:
        layer: with `return_sequences`, `return_state`, `go_backwards`, `stateful`, `unroll`,
            `zero_output_for_mask`, `time_major`, `loop` and `activity_regularizer`.
        cell: one step, bound to the layer.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        initial_state: of the cell, or None: the stored state where there is one, else zeros.
        **options: of the call: `mask`, `seq_lengths`, `reset`, `reset_state`, `training`.

    Returns:
        The outputs `[..., t, u]` or `[..., u]`; with `return_state` a tuple of them and the states.
    """
    if layer.stateful and initial_state is None:
        zeros = initial_carry(cell, inputs, layer.time_major)
        initial_state = load_state(layer, zeros)
        if options["reset"] is not None and options["reset_state"] is None:
            # What the last call left behind is no beginning for a reset to go back to.
            options["reset_state"] = zeros
    outputs, state = _sequence_of(cell)(
        inputs,
        initial_state=initial_state,
        go_backwards=layer.go_backwards,
        time_major=layer.time_major,
        unroll=layer.unroll,
        return_sequences=layer.return_sequences,
        zero_output_for_mask=layer.zero_output_for_mask,
        **options,
    )
    if layer.stateful:
        store_state(layer, state)
    result = (outputs, *as_tuple(state)) if layer.return_state else outputs
    _sow_activity_loss(layer, result)
    return result


def as_tuple(state: Any) -> tuple:
    """Returns a cell's state as a tuple of states."""
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def _sequence_of(cell: nn.RNNCellBase) -> Callable[..., tuple[jax.Array, Any]]:
    """The function that runs a cell over a sequence: its own, or the one for foreign cells."""
    own = getattr(cell, "sequence", None)
    return own if own is not None else functools.partial(cell_sequence, cell)


def _sow_activity_loss(layer: nn.Module, result: Any) -> None:
    regularizer = regularizers.get(layer.activity_regularizer)
    if regularizer is None or layer.is_initializing():
        return
    for output in jax.tree.leaves(result):
        layer.sow("losses", "activity", regularizer(output))
