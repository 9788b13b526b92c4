"""Keras' RNN layer: any NNX cell over a sequence."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike

from gruflax.layers.any_cell import Output
from gruflax.layers.fields import refuse_learned_state
from gruflax.layers.protocols import State
from gruflax.nnx.cell import GRUCell
from gruflax.nnx.layer import Layer, rebuilt
from gruflax.nnx.stacked_cells import StackedRNNCells, check_cell, sequence_of


class RNN(Layer):
    """Runs a cell over a sequence: Keras' `RNN` for Flax's NNX cells.

        rnn = gruflax.nnx.RNN(nnx.LSTMCell(4, 8, rngs=rngs), return_sequences=True)
        outputs = rnn(inputs, seq_lengths=lengths)

    A `gruflax.nnx.GRUCell` takes the same fast loop as `gruflax.nnx.GRU`; any other
    `flax.nnx.RNNCellBase`, or a module with its methods `initialize_carry` and `num_feature_axes`,
    goes through `lax.scan`: with one state or several, its parameters the same at every step and
    its other variables carried from step to step. Arguments: those of `Layer`, and this.

    Args:
        cell: the cell, or a list of cells that are stacked, see `StackedRNNCells`.

    Raises:
        TypeError: `cell` is no cell.

    Source: Keras 3's `RNN`.
    """

    def __init__(self, cell: nnx.Module | Sequence[nnx.Module], **options: Any):
        super().__init__(**options)
        if isinstance(cell, (tuple, list)):
            cell = StackedRNNCells(cell)
        check_cell("cell", cell)
        if self.stateful:
            refuse_learned_state(cell)
        self.cell = cell

    @property
    def step_cell(self) -> Any:
        """Returns the cell."""
        return self.cell

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the cell over a sequence: a GRUCell's own way, or the one for any cell."""
        return sequence_of(self.cell)(inputs, **options)

    def mirrored(self, rngs: nnx.Rngs) -> "RNN":
        """Returns a layer like this one with new weights, that goes the other way.

        Raises:
            ValueError: the cell is not gruflax's: it does not tell its arguments.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["go_backwards"] = not self.go_backwards
        return type(self)(_rebuilt(self.cell, rngs), **fields)


def _rebuilt(cell: Any, rngs: nnx.Rngs) -> nnx.Module:
    """Makes a cell like this one with new weights."""
    if isinstance(cell, StackedRNNCells):
        return type(cell)([_rebuilt(each, rngs) for each in cell.cells])
    if isinstance(cell, GRUCell):
        return rebuilt(cell, rngs)
    raise ValueError(f"backward_layer must be given for a cell of type {type(cell).__name__}.")
