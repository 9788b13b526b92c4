"""Keras' RNN layer: any Flax cell over a sequence."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.functional.params import check_size
from gruflax.layers.calls import by_keyword, other_system
from gruflax.layers.fields import Identifier, check_layer_fields, refuse_learned_state
from gruflax.layers.states import as_tuple
from gruflax.linen.config import Configurable
from gruflax.linen.layer import call_layer
from gruflax.linen.stacked import StackedRNNCells
from gruflax.linen.state import Resettable


class RNN(Resettable, Configurable):
    """Runs a cell over a sequence: Keras' `RNN` for Flax' cells.

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
            layer = isinstance(self.cell, Resettable)
            remedy = ": a layer has its loop already" if layer else other_system(self.cell)
            raise TypeError(
                "cell must be a flax.linen.RNNCellBase, such as gruflax.GRUCell, or a list of "
                f"them, got {brief(self.cell)}{remedy}."
            )
        check_layer_fields(self)
        if self.stateful:
            refuse_learned_state(self.cell)
        super().__post_init__()

    @nn.compact
    @by_keyword
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: Any = None,
        training: bool = False,
        initial_state: Any = None,
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Runs the cell over a sequence.

        Args:
            inputs: `[..., t, *features]`, or `[t, ..., *features]` with `time_major`.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                step does not count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step.
            reset_state: the cell's state, with `reset`; None is `initial_state`, or the cell's own
                initial state where a stateful layer carries its state on.
            training: whether to apply dropout.
            initial_state: the cell's state; None is the stored state of a stateful layer, else the
                cell's own initial state.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and each of the states.

        Raises:
            ValueError: a shape does not fit; the message names the argument.
        """
        cell: Any = self.cell
        return call_layer(
            self,
            cell,
            inputs,
            initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            training=training,
        )

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the state before the first step: a tuple of arrays `[batch_size, u]`."""
        check_size("batch_size", batch_size)
        cell: Any = self.cell
        features = (1,) * cell.num_feature_axes
        state = cell.initialize_carry(jax.random.key(0), (batch_size, *features))
        return as_tuple(state)
