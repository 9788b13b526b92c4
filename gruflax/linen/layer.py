"""What a recurrent layer makes of its cell's outputs and states."""

from typing import Any, cast

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.keras_names import regularizers
from gruflax.layers.calls import refuse_positional
from gruflax.layers.protocols import Cell, RecurrentLayer, State
from gruflax.layers.states import as_tuple
from gruflax.linen.cell_sequence import initial_carry
from gruflax.linen.serialization import Configurable
from gruflax.linen.state import Resettable, load_state, store_state


class Layer(Resettable, Configurable):
    """A cell over a sequence: what `GRU`, `RNN` and v1's `GRU` do around their `sequence`.

    A layer has the fields `return_sequences`, `return_state`, `go_backwards`, `stateful`, `unroll`,
    `zero_output_for_mask`, `activity_regularizer` and `time_major`.
    """

    @property
    def step_cell(self) -> Cell:
        """Returns what has the cell's `initialize_carry` and `num_feature_axes`."""
        return cast(Cell, self)

    @nn.compact
    def __call__(
        self,
        inputs: ArrayLike,
        *by_position: Any,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: State = None,
        training: bool = False,
        initial_state: State = None,
    ) -> Any:
        """Runs the layer over a sequence.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
                Without one, `[t, f]` is one sequence, as in Flax: a forgotten axis looks the same.
            *by_position: refused: all else is by keyword.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                state and the output stay what they were.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step.
            reset_state: of the cell, with `reset`; None is the cell's own initial state, the
                learned one or zeros, never `initial_state`.
            training: whether to apply dropout, with masks from the "dropout" stream; a Python bool.
            initial_state: of the cell, `[..., u]` for a GRU, or a tuple or list of it; None is the
                stored state of a stateful layer, else the cell's own: the learned one, or zeros.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and each of the states.

        Raises:
            TypeError: a flag is traced or no bool, `seq_lengths` are not integers, `inputs` are
                token ids, or something else than `inputs` came by position.
            ValueError: a shape does not fit, `use_cudnn` cannot be met, the batch size of a
                stateful layer changed or its collection may not be written, or dropout has no key;
                the message names the argument.
        """
        refuse_positional(self, by_position)
        layer, own = cast(RecurrentLayer, self), None
        if layer.stateful:
            own = initial_carry(layer.step_cell, inputs, layer.time_major)
            stored = load_state(self, own)
            initial_state = stored if initial_state is None else initial_state
        outputs, state = layer.sequence(
            inputs,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            training=training,
            initial_state=initial_state,
            go_backwards=layer.go_backwards,
            time_major=layer.time_major,
            unroll=layer.unroll,
            return_sequences=layer.return_sequences,
            zero_output_for_mask=layer.zero_output_for_mask,
        )
        if layer.stateful:
            store_state(self, state, own)
        return self.results(outputs, state, mask)

    def results(self, outputs: jax.Array, state: State, mask: Any) -> Any:
        """Returns what a call returns, its activity loss sown."""
        layer = cast(RecurrentLayer, self)
        result = (outputs, *as_tuple(state)) if layer.return_state else outputs
        sow_activity_loss(self, result)
        return result


def sow_activity_loss(layer: nn.Module, result: Any, by_batch: bool = False) -> None:
    """Sows the loss of each output into "losses", divided by the batch size if asked for."""
    fields = cast(RecurrentLayer, layer)
    regularizer = regularizers.get(fields.activity_regularizer, "activity_regularizer")
    if regularizer is None or layer.is_initializing():
        return
    for output in jax.tree.leaves(result):
        layer.sow("losses", "activity", regularizer(output) / (output.shape[0] if by_batch else 1))
