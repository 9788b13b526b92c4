"""Keras' RNN layer: any Flax cell over a sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import ArrayLike

from gruflax.functional.params import check_size
from gruflax.layers.any_cell import Output
from gruflax.layers.fields import Identifier, check_layer_fields, refuse_learned_state
from gruflax.layers.protocols import State
from gruflax.layers.states import as_tuple
from gruflax.linen.cell_sequence import Lifting
from gruflax.linen.layer import Layer
from gruflax.linen.stacked_cells import StackedRNNCells, check_cell, sequence_of


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
        variable_axes: of a cell that has variables besides parameters: the collections that have
            values of their own at every step, and the axis of the steps, as in `flax.linen.RNN`.
        variable_carry: the collections whose values go from step to step, such as "batch_stats".
        split_rngs: the random streams that the cell draws from, True for those that give another
            key at every step. "dropout" gives the same key at every step unless it is here.

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
    variable_axes: Mapping[Any, Any] = FrozenDict()
    variable_carry: Any = False
    split_rngs: Mapping[str, bool] = FrozenDict()

    def __post_init__(self):
        if isinstance(self.cell, (tuple, list)):
            self.cell = StackedRNNCells(self.cell)
        check_cell("cell", self.cell)
        check_layer_fields(self)
        if self.stateful:
            refuse_learned_state(self.cell)
        super().__post_init__()

    @property
    def step_cell(self) -> Any:
        """Returns the cell."""
        return self.cell

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the cell over a sequence: `(outputs, state)`."""
        lifting = Lifting(self.variable_axes, self.variable_carry, self.split_rngs)
        return sequence_of(self.step_cell, lifting)(inputs, **options)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the state before the first step: a tuple of arrays `[batch_size, u]`."""
        check_size("batch_size", batch_size)
        cell: Any = self.cell
        features = (1,) * cell.num_feature_axes
        state = cell.initialize_carry(jax.random.key(0), (batch_size, *features))
        return as_tuple(state)
