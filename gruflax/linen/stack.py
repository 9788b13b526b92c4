"""Layers on top of each other, with dropout in between."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.functional.config import checked_rate
from gruflax.functional.dropout import dropout_mask
from gruflax.layers.calls import by_keyword
from gruflax.linen.bidirectional import Bidirectional
from gruflax.linen.gru import GRU
from gruflax.linen.module import Module
from gruflax.linen.rnn import RNN
from gruflax.linen.weights import dropout_key


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
        _check_layers(self.layers)
        self.layers = tuple(self.layers)
        self.dropout = checked_rate("dropout", self.dropout)
        super().__post_init__()

    @by_keyword
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        training: bool = False,
        initial_state: tuple | list | None = None,
    ) -> Any:
        """Runs the layers over a sequence.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]` or `[..., t, 1]`, for every layer.
            seq_lengths: `[...]` integers, for every layer.
            reset: `[..., t]` or `[..., t, 1]`, for every layer.
            training: whether to apply dropout, between the layers and within.
            initial_state: a tuple or list of one entry a layer, each what that layer takes as its
                `initial_state`, or None.

        Returns:
            The outputs of the last layer; with `return_state` a tuple `(outputs, states)`, where
            `states` holds a tuple of states for each layer and can be the next `initial_state`.

        Raises:
            TypeError: `training` is traced.
            ValueError: there is not one entry a layer in `initial_state`; a layer that goes
                backwards is followed by another and steps are marked by `mask`, `seq_lengths` or
                `reset`; dropout has no key; or a layer's own errors.
        """
        marked = any(steps is not None for steps in (mask, seq_lengths, reset))
        if marked and any(layer.go_backwards for layer in self.layers[:-1]):
            raise ValueError(
                "mask, seq_lengths and reset must be None where a layer but the last has "
                "go_backwards=True: its outputs come with the last step first."
            )
        keys = self._dropout_keys(training)
        states, outputs = [], jnp.asarray(inputs)
        given = self._one_each("initial_state", initial_state)
        for index, (layer, state) in enumerate(zip(self.layers, given, strict=True)):
            if index and keys is not None:
                outputs = outputs * dropout_mask(
                    keys[index - 1], self.dropout, outputs.shape, outputs.dtype
                )
            result = layer(
                outputs,
                mask=mask,
                seq_lengths=seq_lengths,
                reset=reset,
                training=training,
                initial_state=state,
            )
            outputs, new = _split_result(layer, result)
            states.append(new)
        return (outputs, tuple(states)) if self.layers[-1].return_state else outputs

    def reset_states(self, states: tuple | list | None = None) -> None:
        """Resets the stored states of the layers that are stateful.

        Args:
            states: None for zeros, or a tuple or list of one entry a layer, each what that layer's
                `reset_states` takes, or None.

        Raises:
            AttributeError: no layer is stateful.
            ValueError: there is not one entry a layer, or as `gruflax.GRU.reset_states`.
        """
        if not any(layer.stateful for layer in self.layers):
            raise AttributeError("Layer must be stateful, got no layer with stateful=True.")
        given = self._one_each("states", states)
        for layer, state in zip(self.layers, given, strict=True):
            if layer.stateful or state is not None:
                layer.reset_states(state)

    def reset_state(self) -> None:
        """Resets the stored states to zeros, as `reset_states()` does."""
        self.reset_states()

    def _dropout_keys(self, training: bool) -> jax.Array | None:
        """A key for each pair of neighbours, or None where nothing is dropped."""
        key = dropout_key(self, training) if self.dropout and len(self.layers) > 1 else None
        return None if key is None else jax.random.split(key, len(self.layers) - 1)

    def _one_each(self, name: str, states: Any) -> tuple | list:
        if states is None:
            return (None,) * len(self.layers)
        if not isinstance(states, (tuple, list)) or len(states) != len(self.layers):
            got = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
            raise ValueError(
                f"{name} must be a tuple or list of one entry for each of {len(self.layers)} "
                f"layers, got {got}."
            )
        return states


def _check_layers(layers: Any) -> None:
    if not isinstance(layers, (tuple, list)) or not layers:
        raise TypeError(
            "layers must be a list of one layer or more, as in Stack([GRU(8), GRU(4)]), got "
            f"{brief(layers)}."
        )
    for index, layer in enumerate(layers):
        if not isinstance(layer, (GRU, RNN, Bidirectional)):
            raise TypeError(
                f"layers[{index}] must be a gruflax.GRU, RNN or Bidirectional, got {brief(layer)}."
            )
        for name in ("return_state", "time_major"):
            if getattr(layer, name) != getattr(layers[0], name):
                raise ValueError(
                    f"layers must agree on {name}, got {getattr(layers[0], name)} for layers[0] "
                    f"and {getattr(layer, name)} for layers[{index}]."
                )
    for index, layer in enumerate(layers[:-1]):
        if not layer.return_sequences or getattr(layer, "merge_mode", "") is None:
            raise ValueError(
                f"layers[{index}] must return one sequence to the layer above: "
                "return_sequences=True, and a merge_mode that is not None."
            )


def _split_result(layer: GRU | RNN | Bidirectional, result: Any) -> tuple[Any, tuple]:
    """Splits what a layer returned into `(outputs, states)`."""
    if not layer.return_state:
        return result, ()
    if isinstance(layer, Bidirectional) and layer.merge_mode is None:
        return result[:2], result[2:]
    return result[0], result[1:]
