"""Layers on top of each other, with dropout in between."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from gruflax.functional.config import checked_rate
from gruflax.functional.dropout import dropout_mask
from gruflax.layers.calls import refuse_positional
from gruflax.layers.protocols import State
from gruflax.layers.stacks import check_stack, one_each, run_stack
from gruflax.linen.bidirectional import Bidirectional
from gruflax.linen.gru import GRU
from gruflax.linen.module import Module
from gruflax.linen.parameters import dropout_key
from gruflax.linen.rnn import RNN


class Stack(Module):
    """Runs recurrent layers one after the other: a multi-layer GRU as in PyTorch.

        encoder = gruflax.Stack(
            [gruflax.GRU(64, return_sequences=True), gruflax.GRU(64)], dropout=0.2
        )

    The layers' parameters are under `layers_0`, `layers_1`, ...; layers that are made in a compact
    method belong to the module of that method, as anywhere in Flax.

    Attributes:
        layers: a `gruflax.GRU`, `RNN` or `Bidirectional` each; all but the last return sequences,
            and all agree on `return_state` and `time_major`.
        dropout: rate in [0, 1] at which the outputs of each layer but the last are dropped, drawn
            anew for each number of each step.
        seed: gives the dropout key when the "dropout" stream is absent.

    Source: PyTorch's `torch.nn.GRU` with `num_layers` and `dropout`.
    """

    layers: Sequence[GRU | RNN | Bidirectional]
    dropout: float = 0.0
    seed: int | None = None

    def __post_init__(self):
        check_stack(self.layers, (GRU, RNN, Bidirectional), "gruflax.GRU, RNN or Bidirectional")
        self.layers = tuple(self.layers)
        self.dropout = checked_rate("dropout", self.dropout)
        super().__post_init__()

    def __call__(
        self,
        inputs: ArrayLike,
        *by_position: Any,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        training: bool = False,
        initial_state: tuple | list | None = None,
    ) -> Any:
        """Runs the layers over a sequence: arguments and errors are those of `gruflax.GRU`, and:

        Args:
            initial_state: a tuple or list of one entry for each layer, each what that layer takes
                as its `initial_state`, or None.

        Returns:
            The outputs of the last layer; with `return_state` a tuple `(outputs, states)`, where
            `states` holds a tuple of states for each layer and can be the next `initial_state`.

        Raises:
            ValueError: a layer that goes backwards is followed by another and steps are marked by
                `mask`, `seq_lengths` or `reset`.
        """
        refuse_positional(self, by_position)
        options = {"mask": mask, "seq_lengths": seq_lengths, "reset": reset, "training": training}
        key = dropout_key(self, training) if self.dropout and len(self.layers) > 1 else None
        keys = None if key is None else jax.random.split(key, len(self.layers) - 1)

        def run(index: int, inputs: Any, initial_state: State) -> Any:
            return self.layers[index](inputs, initial_state=initial_state, **options)

        def drop(index: int, outputs: jax.Array) -> jax.Array:
            if keys is None:
                return outputs
            mask = dropout_mask(keys[index - 1], self.dropout, outputs.shape, outputs.dtype)
            return outputs * mask

        marks = (mask, seq_lengths, reset)
        return run_stack(tuple(self.layers), run, drop, inputs, initial_state, marks)

    def reset_states(self, states: tuple | list | None = None) -> None:
        """Resets the states of the layers that are stateful: zeros, or one entry for each layer.

        Raises:
            AttributeError: no layer is stateful.
            ValueError: there is not one entry for each layer, or as `gruflax.GRU.reset_states`.
        """
        if not any(layer.stateful for layer in self.layers):
            raise AttributeError("Layer must be stateful, got no layer with stateful=True.")
        given = one_each("states", states, len(self.layers))
        for layer, state in zip(self.layers, given, strict=True):
            if layer.stateful or state is not None:
                layer.reset_states(state)

    def reset_state(self) -> None:
        """Resets the stored states to zeros, as `reset_states()` does."""
        self.reset_states()
