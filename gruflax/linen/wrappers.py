"""Layers that contain layers, as `flax.linen` modules: Bidirectional and Stack."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.config import checked_rate
from gruflax.functional.dropout import dropout_mask
from gruflax.layers.cell_loop import Output
from gruflax.layers.directions import (
    Pair,
    check_merge_mode,
    check_pair,
    run_directions,
    state_halves,
)
from gruflax.layers.fields import check_kind
from gruflax.layers.nesting import State, check_stateful
from gruflax.layers.stacking import check_stack, one_each, run_stack
from gruflax.linen.config import keras_class
from gruflax.linen.gru import GRU
from gruflax.linen.layer import Module, dropout_key
from gruflax.linen.rnn import RNN


@keras_class
class Bidirectional(Pair, Module):
    """Runs a layer over a sequence in both directions: Keras' `Bidirectional`.

    Like Keras, it makes copies of the layers it is given. The parameters of the copies are under
    `forward_layer` and `backward_layer`. With `return_sequences` the outputs at masked steps are
    zeros, even if the layers have `zero_output_for_mask=False`.

    Attributes:
        layer: a `gruflax.GRU` or `gruflax.RNN`.
        merge_mode: how the outputs are merged: "concat", "sum", "mul", "ave", or None to return
            both. Default "concat".
        backward_layer: the layer that goes backwards, with the same `return_sequences`,
            `return_state`, `stateful` and `time_major` as `layer`, and the opposite `go_backwards`.
            Default None, which makes a copy of `layer` with `go_backwards=True`.
        name: name of the module, as in Flax. Default None.

    Source: Keras 3's `Bidirectional`.
    """

    # By this Flax keeps the names `forward_layer` and `backward_layer`.
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
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        training: bool = False,
        initial_state: tuple | list | None = None,
    ) -> Output:
        """Runs both layers over a sequence; errors are those of `gruflax.GRU`.

        Args:
            inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]`, False where a step does not count; None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: True at the first step of each part of a sequence: no state goes from part to
                part, in either direction. None: one part.
            training: whether to apply dropout, False by default.
            initial_state: a tuple or list of the states of the forward layer, then as many of the
                backward layer. None: the stored states of stateful layers, else the initial states
                of the cells.

        Returns:
            The merged outputs `[..., t, 2u]` ("concat") or `[..., t, u]`, or those of the last step
            processed in each direction, without `return_sequences`; for `merge_mode=None` a tuple
            of both. With `return_state` a tuple of the outputs and both layers' states.
        """
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
        """Resets the stored states: to zeros, or to those of the forward and the backward layer."""
        check_stateful(self.stateful)
        for layer, half in zip(self._layers, state_halves("states", states), strict=True):
            layer.reset_states(half)

    def reset_state(self) -> None:
        """Resets the stored states to zeros, as ``reset_states()`` does."""
        self.reset_states()

    @property
    def _forward(self) -> GRU | RNN:
        return self.layer

    @property
    def _layers(self) -> tuple[GRU | RNN, GRU | RNN]:
        assert self.backward_layer is not None
        return self.layer, self.backward_layer

    @property
    def num_feature_axes(self) -> int:
        """Returns how many axes of an input step are features."""
        return self.layer.step_cell.num_feature_axes if isinstance(self.layer, RNN) else 1

    @property
    def dtype(self) -> DTypeLike | None:
        """Returns the dtype that the forward layer computes in, for the config."""
        return getattr(self.layer, "dtype", None)

    @property
    def param_dtype(self) -> DTypeLike:
        """Returns the dtype of the forward layer's parameters, for the config."""
        return getattr(self.layer, "param_dtype", jnp.float32)


def _check_layer(name: str, layer: object) -> None:
    wanted = "a gruflax.GRU or gruflax.RNN"
    check_kind(name, layer, isinstance(layer, (GRU, RNN)), wanted, nn.Module)


def _direction(layer: GRU | RNN, name: str) -> GRU | RNN:
    """Copies a layer, so that the two share nothing; the pair itself puts zeros at masked steps."""
    if layer.name == name and not layer.zero_output_for_mask:
        # Flax rebuilds a bound module from its fields, which must not be copied again.
        return layer
    options = {"name": name, "zero_output_for_mask": False}
    return layer.clone(**options, _deep_clone=True, _reset_names=True)


class Stack(Module):
    """Runs recurrent layers one after the other: a multi-layer GRU as in PyTorch.

    For example::

        encoder = gruflax.Stack(
            [gruflax.GRU(64, return_sequences=True), gruflax.GRU(64)], dropout=0.2
        )

    The layers' parameters are under `layers_0`, `layers_1`, ...; layers that are made in a compact
    method belong to the module of that method, as anywhere in Flax.

    Attributes:
        layers: a list of `gruflax.GRU`, `RNN` or `Bidirectional` layers; all but the last must
            return sequences, and all must have the same `return_state` and `time_major`.
        dropout: rate in [0, 1] at which the outputs of each layer but the last are dropped, each
            entry of each step independently. Default 0.
        seed: integer that gives the dropout key when there is no "dropout" stream. Default None.
        name: name of the module, as in Flax. Default None.

    Source: PyTorch's `torch.nn.GRU` with `num_layers` and `dropout`.
    """

    layers: Sequence[GRU | RNN | Bidirectional]
    dropout: float = 0.0
    seed: int | None = None

    def __post_init__(self):
        kinds = (GRU, RNN, Bidirectional)
        check_stack(self.layers, kinds, "gruflax.GRU, RNN or Bidirectional", nn.Module)
        self.layers = tuple(self.layers)
        self.dropout = checked_rate("dropout", self.dropout)
        super().__post_init__()

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        training: bool = False,
        initial_state: tuple | list | None = None,
    ) -> Output:
        """Runs the layers over a sequence; other errors are those of `gruflax.GRU`.

        Args:
            inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]`, False where a step does not count; None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: like `mask`; True where the states of all layers go back to their own initial
                states before that step. None: nowhere.
            training: whether to apply dropout, False by default.
            initial_state: a tuple or list of one entry for each layer, the `initial_state` of that
                layer or None. None: all layers choose their initial state.

        Returns:
            The outputs of the last layer; with `return_state` a tuple `(outputs, states)`, where
            `states` holds a tuple of states for each layer and can be the next `initial_state`.

        Raises:
            ValueError: a layer that goes backwards is followed by another and steps are marked by
                `mask`, `seq_lengths` or `reset`.
        """
        options = {"mask": mask, "seq_lengths": seq_lengths, "reset": reset, "training": training}
        key = dropout_key(self, training) if self.dropout and len(self.layers) > 1 else None
        keys = None if key is None else jax.random.split(key, len(self.layers) - 1)

        def run(index: int, inputs: Output, initial_state: State) -> Output:
            return self.layers[index](inputs, initial_state=initial_state, **options)

        def drop(index: int, outputs: jax.Array) -> jax.Array:
            if keys is None:
                return outputs
            mask = dropout_mask(keys[index - 1], self.dropout, outputs.shape, outputs.dtype)
            return outputs * mask

        marks = (mask, seq_lengths, reset)
        return run_stack(self.layers, run, drop, inputs, initial_state, marks)

    def reset_states(self, states: tuple | list | None = None) -> None:
        """Resets the states of the layers that are stateful: zeros, or one entry for each layer.

        Raises:
            AttributeError: no layer is stateful.
            ValueError: there is not one entry for each layer, or see `gruflax.GRU.reset_states`.
        """
        if not any(layer.stateful for layer in self.layers):
            raise AttributeError("Layer must be stateful, got no layer with stateful=True.")
        given = one_each("states", states, len(self.layers))
        for layer, state in zip(self.layers, given, strict=True):
            if layer.stateful or state is not None:
                layer.reset_states(state)

    def reset_state(self) -> None:
        """Resets the stored states to zeros, as ``reset_states()`` does."""
        self.reset_states()
