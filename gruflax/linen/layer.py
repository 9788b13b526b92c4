"""One call of a recurrent layer: what the layers share."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.keras_names import regularizers
from gruflax.layers.any_cell import run_sequence
from gruflax.layers.states import as_tuple
from gruflax.linen.foreign import initial_carry
from gruflax.linen.stacked import sequence_of
from gruflax.linen.state import load_state, store_state


def call_layer(
    layer: nn.Module, cell: nn.RNNCellBase, inputs: ArrayLike, initial_state: Any, **options: Any
) -> Any:
    """Runs a layer's cell over a sequence and returns what Keras' layer returns.

    Args:
        layer: with the fields that `run_layer` reads, and `zero_output_for_mask`, `return_state`
            and `activity_regularizer`.
        cell: one step, bound to the layer.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        initial_state: of the cell, or None.
        **options: of the call: `mask`, `seq_lengths`, `reset`, `reset_state`, `training`.

    Returns:
        The outputs `[..., t, u]` or `[..., u]`; with `return_state` a tuple of them and the states.
    """
    zero = layer.zero_output_for_mask
    outputs, state = run_layer(
        layer, cell, inputs, initial_state, zero_output_for_mask=zero, **options
    )
    result = (outputs, *as_tuple(state)) if layer.return_state else outputs
    sow_activity_loss(layer, result)
    return result


def run_layer(
    layer: nn.Module, cell: nn.RNNCellBase, inputs: ArrayLike, initial_state: Any, **options: Any
) -> tuple[jax.Array, Any]:
    """Runs a layer's cell over a sequence, from the stored state on where the layer is stateful.

    Args:
        layer: with `return_sequences`, `go_backwards`, `stateful`, `unroll` and `time_major`.
        cell: one step, bound to the layer.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        initial_state: of the cell; None is the stored state where there is one, else zeros.
        **options: of `gruflax.functional.gru_sequence`, and `training`.

    Returns:
        `(outputs, state)`.
    """
    zeros = stored = None
    if layer.stateful:
        zeros = initial_carry(cell, inputs, layer.time_major)
        stored = load_state(layer, zeros)
    outputs, state = run_sequence(
        layer, sequence_of(cell), inputs, initial_state, stored, zeros, **options
    )
    if layer.stateful:
        store_state(layer, state)
    return outputs, state


def sow_activity_loss(
    layer: nn.Module, result: Any, scale: Callable[[jax.Array], float] = lambda output: 1.0
) -> None:
    """Sows the activity loss of each output of a call into "losses".

    Args:
        layer: with `activity_regularizer`.
        result: a pytree of outputs.
        scale: what the loss of an output is multiplied by.
    """
    regularizer = regularizers.get(layer.activity_regularizer, "activity_regularizer")
    if regularizer is None or layer.is_initializing():
        return
    for output in jax.tree.leaves(result):
        layer.sow("losses", "activity", regularizer(output) * scale(output))
