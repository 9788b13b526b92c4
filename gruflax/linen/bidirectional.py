"""Keras' Bidirectional layer."""

from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import brief
from gruflax.layers.calls import other_system, refuse_positional
from gruflax.layers.directions import (
    Pair,
    check_merge_mode,
    check_pair,
    run_directions,
    state_halves,
)
from gruflax.layers.protocols import State
from gruflax.linen.gru import GRU
from gruflax.linen.rnn import RNN
from gruflax.linen.serialization import Configurable
from gruflax.linen.state import Resettable, check_stateful


class Bidirectional(Pair, Resettable, Configurable):
    """Runs a layer over a sequence in both directions: Keras' `Bidirectional`.

    Like Keras it makes layers of its own from those it is given: their parameters are under
    `forward_layer` and `backward_layer`, wherever they were made. With `return_sequences` their
    outputs at masked steps are zeros, whatever their `zero_output_for_mask` says.

    Attributes:
        layer: a `gruflax.GRU` or `gruflax.RNN`.
        merge_mode: how the outputs are merged: "concat", "sum", "mul", "ave", or None to return
            both.
        backward_layer: the layer that goes backwards; None is one like `layer`. It has the same
            `return_sequences`, `return_state`, `stateful` and `time_major`, and the opposite
            `go_backwards`.

    Source: Keras 3's `Bidirectional`.
    """

    # Flax: the layers keep the names that they get below.
    preserve_adopted_names = True

    layer: GRU | RNN
    merge_mode: str | None = "concat"
    backward_layer: GRU | RNN | None = None

    def __post_init__(self):
        check_merge_mode(self.merge_mode)
        _check_layer("layer", self.layer)
        backward = self.backward_layer
        if backward is None:
            backward = self.layer.clone(go_backwards=True, _deep_clone=True, _reset_names=True)
        _check_layer("backward_layer", backward)
        check_pair(("layer", "backward_layer"), (self.layer, backward))
        self.layer = _direction(self.layer, "forward_layer")
        self.backward_layer = _direction(backward, "backward_layer")
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
        """Runs both layers over a sequence: arguments and errors are those of `gruflax.GRU`, and:

        Args:
            reset: True at the first step of each part of a sequence: no state goes from part to
                part, in either direction.
            initial_state: a tuple or list: the states of the forward layer, then as many of the
                backward layer; None is the stored states of stateful layers, else their own.

        Returns:
            The merged outputs `[..., t, 2u]` ("concat") or `[..., t, u]`, or those of the last step
            processed in each direction, without `return_sequences`; for `merge_mode=None` a tuple
            of both. With `return_state` a tuple of the outputs and both layers' states.
        """
        refuse_positional(self, by_position)
        return run_directions(
            lambda layer, **options: layer(inputs, training=training, **options),
            self._layers,
            inputs,
            self.num_feature_axes,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
        )

    def reset_states(self, states: State = None) -> None:
        """Resets both states, to zeros or to the forward layer's and then the backward one's."""
        check_stateful(self)
        for layer, half in zip(self._layers, state_halves("states", states), strict=True):
            layer.reset_states(half)

    @property
    def _forward(self) -> GRU | RNN:
        return self.layer

    @property
    def _layers(self) -> tuple[GRU | RNN, GRU | RNN]:
        return self.layer, cast(GRU | RNN, self.backward_layer)

    @property
    def num_feature_axes(self) -> int:
        """Returns how many axes of an input step are features."""
        cell: Any = self.layer.cell if isinstance(self.layer, RNN) else None
        return 1 if cell is None else cell.num_feature_axes

    @property
    def dtype(self) -> DTypeLike | None:
        """Returns the dtype that the forward layer computes in, for the config."""
        return getattr(self.layer, "dtype", None)

    @property
    def param_dtype(self) -> DTypeLike:
        """Returns the dtype of the forward layer's parameters, for the config."""
        return getattr(self.layer, "param_dtype", jnp.float32)


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, (GRU, RNN)):
        cell = isinstance(layer, nn.RNNCellBase)
        remedy = ": run the cell by gruflax.RNN" if cell else other_system(layer, GRU)
        raise TypeError(f"{name} must be a gruflax.GRU or gruflax.RNN, got {brief(layer)}{remedy}.")


def _direction(layer: GRU | RNN, name: str) -> GRU | RNN:
    """Makes the layer that runs: a copy, so that the two share nothing; zeros are the pair's."""
    if layer.name == name and not layer.zero_output_for_mask:
        # Flax rebuilds a bound module from its fields, and these are bound then.
        return layer
    options: dict[str, Any] = {"name": name, "zero_output_for_mask": False}
    return layer.clone(**options, _deep_clone=True, _reset_names=True)
