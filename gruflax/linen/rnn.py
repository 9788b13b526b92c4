"""Keras' RNN layer: any Flax cell over a sequence."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.functional.params import check_size
from gruflax.layers.calls import other_system
from gruflax.layers.fields import Identifier, check_layer_fields, refuse_learned_state
from gruflax.layers.protocols import State
from gruflax.layers.states import as_tuple
from gruflax.linen.layer import Layer
from gruflax.linen.stacked_cells import StackedRNNCells, sequence_of


class RNN(Layer):
    """Runs a cell over a sequence: Keras' `RNN` for Flax's cells.

    A `gruflax.GRUCell` takes the same fast loop as `gruflax.GRU`; any other
    `flax.linen.RNNCellBase`, with one state or several, goes through `nn.scan`. The cell's
    parameters are under `cell`.

    Attributes:
        cell: the cell, or a list of cells that are stacked, see `StackedRNNCells`.
        return_sequences: returns the output of every step instead of the last one.
        return_state: returns the state too.
        go_backwards: processes the last step first; outputs come in the order of processing.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state".
        unroll: a Python loop instead of a scan.
        zero_output_for_mask: outputs are zeros, instead of the last output, at masked steps.
        activity_regularizer: a Keras name, config dict, or `f(output) -> loss`.
        time_major: inputs, masks and outputs have time as the first axis.

    Source: Keras 3's `RNN`.
    """

    cell: nn.RNNCellBase | Sequence[nn.RNNCellBase]
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False
    activity_regularizer: Identifier = None
    time_major: bool = False

    def __post_init__(self):
        if isinstance(self.cell, (tuple, list)):
            self.cell = StackedRNNCells(self.cell)
        if not isinstance(self.cell, nn.RNNCellBase):
            layer = isinstance(self.cell, Layer)
            remedy = ": a layer has its loop already" if layer else other_system(self.cell)
            raise TypeError(
                "cell must be a flax.linen.RNNCellBase, such as gruflax.GRUCell, or a list of "
                f"them, got {brief(self.cell)}{remedy}."
            )
        check_layer_fields(self)
        if self.stateful:
            refuse_learned_state(self.cell)
        super().__post_init__()

    @property
    def step_cell(self) -> Any:
        """Returns the cell."""
        return self.cell

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, State]:
        """Runs the cell over a sequence: `(outputs, state)`."""
        return sequence_of(self.step_cell)(inputs, **options)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the state before the first step: a tuple of arrays `[batch_size, u]`."""
        check_size("batch_size", batch_size)
        cell: Any = self.cell
        features = (1,) * cell.num_feature_axes
        state = cell.initialize_carry(jax.random.key(0), (batch_size, *features))
        return as_tuple(state)
