"""Layers that contain layers, as NNX modules: Bidirectional and Stack."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.checks import check_flags
from gruflax.functional.config import checked_rate
from gruflax.functional.dropout import dropout_mask
from gruflax.layers.cell_loop import Output
from gruflax.layers.directions import Pair, check_merge_mode, check_pair, run_directions
from gruflax.layers.fields import check_kind
from gruflax.layers.nesting import State
from gruflax.layers.stacking import check_stack, run_stack
from gruflax.nnx.layer import (
    Layer,
    Streams,
    draw_key,
    refuse_linen_ways,
    split_streams,
    stream,
)
from gruflax.nnx.rnn import RNN


class Bidirectional(Pair, nnx.Module):
    """Runs two layers over a sequence in opposite directions: Keras' `Bidirectional`.

    For example::

        both = gruflax.nnx.Bidirectional(gruflax.nnx.GRU(4, 8, rngs=rngs), rngs=rngs)
        outputs = both(inputs, mask=mask)

    As in Keras, the outputs of a sequence at masked steps are zeros, even if the layers have
    `zero_output_for_mask=False`.

    Args:
        forward_layer: a `gruflax.nnx.GRU` or `RNN`.
        backward_layer: a layer with the opposite `go_backwards` and the same `return_sequences`,
            `return_state`, `stateful` and `time_major`. Default None, which makes one with the
            arguments of `forward_layer`.
        merge_mode: how the outputs are merged: "concat", "sum", "mul", "ave", or None to return
            both. Default "concat".
        rngs: random stream "params" that draws the weights of the backward layer where it is not
            given. Default None.

    Raises:
        TypeError: a layer is not a `gruflax.nnx.GRU` or `RNN`, or `rngs` is needed and missing.
        ValueError: the options of the layers do not fit, or `merge_mode` is unknown.

    Source: Keras 3's `Bidirectional`.
    """

    def __init__(
        self,
        forward_layer: Layer,
        backward_layer: Layer | None = None,
        *,
        merge_mode: str | None = "concat",
        rngs: nnx.Rngs | None = None,
    ):
        check_merge_mode(merge_mode)
        _check_layer("forward_layer", forward_layer)
        if backward_layer is None:
            if rngs is None:
                raise TypeError("rngs must be given to make the backward layer, got None.")
            backward_layer = forward_layer.mirrored(rngs)
        _check_layer("backward_layer", backward_layer)
        check_pair(("forward_layer", "backward_layer"), (forward_layer, backward_layer))
        # The pair itself puts zeros at masked steps.
        forward_layer.zero_output_for_mask = backward_layer.zero_output_for_mask = False
        self.forward_layer: Layer = forward_layer
        self.backward_layer: Layer = backward_layer
        self.merge_mode = merge_mode

    @property
    def _forward(self) -> Layer:
        return self.forward_layer

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_state: tuple | list | None = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Output:
        """Runs both layers over a sequence; errors are those of `gruflax.nnx.GRU`.

        Args:
            inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]`, False where a step does not count. None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: True at the first step of each part of a sequence: no state goes from part to
                part, in either direction. None: one part.
            initial_state: a tuple or list of the states of the forward layer, then as many of the
                backward layer. None: the stored states of stateful layers, else the initial states
                of the cells.
            deterministic: whether dropout is off. None: as the attributes `deterministic` say.
            rngs: a stream "dropout", or a key. None: the streams that the layers keep.
            training: must be None: use `deterministic`, `train()` or `eval()` in NNX.

        Returns:
            The merged outputs `[..., t, 2u]` ("concat") or `[..., t, u]`, or those of the last step
            processed in each direction, without `return_sequences`; for `merge_mode=None` a tuple
            of both. With `return_state` a tuple of the outputs and both layers' states.
        """
        refuse_linen_ways(self, training)
        layers = self.forward_layer, self.backward_layer
        streams = split_streams(rngs, 2)

        def run(layer: Layer, **options: Any) -> Output:
            own = streams[layers.index(layer)]
            return layer(inputs, deterministic=deterministic, rngs=own, **options)

        forward = self.forward_layer
        return run_directions(
            run,
            layers,
            inputs,
            forward.cell.num_feature_axes if isinstance(forward, RNN) else 1,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
        )


def _check_layer(name: str, layer: object) -> None:
    check_kind(name, layer, isinstance(layer, Layer), "a gruflax.nnx.GRU or RNN", nnx.Module)


class Stack(nnx.Module):
    """Runs recurrent layers one after the other: a multi-layer GRU as in PyTorch.

    For example::

        encoder = gruflax.nnx.Stack(
            [GRU(4, 8, return_sequences=True, rngs=rngs), GRU(8, 8, rngs=rngs)],
            dropout=0.2,
            rngs=rngs,
        )

    The layers are the attributes `layers_0`, `layers_1`, ...

    Args:
        layers: a list of `gruflax.nnx.GRU`, `RNN` or `Bidirectional` layers; all but the last must
            return sequences, and all must have the same `return_state` and `time_major`.
        dropout: rate in [0, 1] at which the outputs of each layer but the last are dropped, each
            entry of each step independently. Default 0.
        deterministic: whether that dropout is off; `module.eval()` and `module.train()` set it.
            Default False.
        rngs: random stream "dropout", of which a fork is kept; needed if `dropout` is not 0.
            Default None.

    Raises:
        TypeError: `layers` is not a list of layers, or `rngs` is needed and missing.
        ValueError: the options of the layers do not fit, or `dropout` is not a rate in [0, 1].

    Source: PyTorch's `torch.nn.GRU` with `num_layers` and `dropout`.
    """

    def __init__(
        self,
        layers: Sequence[Layer | Bidirectional],
        dropout: float = 0.0,
        *,
        deterministic: bool = False,
        rngs: nnx.Rngs | None = None,
    ):
        kinds = (Layer, Bidirectional)
        check_stack(layers, kinds, "gruflax.nnx.GRU, RNN or Bidirectional", nnx.Module)
        for index, layer in enumerate(layers):
            setattr(self, f"layers_{index}", layer)
        self.count = len(layers)
        self.dropout = checked_rate("dropout", dropout)
        self.deterministic = deterministic
        self.dropout_stream = stream("dropout", rngs).fork() if dropout else nnx.data(None)

    @property
    def layers(self) -> tuple[Any, ...]:
        """Returns the layers, the lowest first."""
        return tuple(getattr(self, f"layers_{index}") for index in range(self.count))

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_state: tuple | list | None = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Output:
        """Runs the layers over a sequence; other errors are those of `gruflax.nnx.GRU`.

        Args:
            inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]`, False where a step does not count. None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: like `mask`; True where the states of all layers go back to their own initial
                states before that step. None: nowhere.
            initial_state: a tuple or list of one entry for each layer, the `initial_state` of that
                layer or None. None: all layers choose their initial state.
            deterministic: whether dropout is off. None: as the attributes `deterministic` say.
            rngs: a stream "dropout", or a key. None: the streams that layers and stack keep.
            training: must be None: use `deterministic`, `train()` or `eval()` in NNX.

        Returns:
            The outputs of the last layer; with `return_state` a tuple `(outputs, states)`, where
            `states` holds a tuple of states for each layer and can be the next `initial_state`.

        Raises:
            ValueError: a layer that goes backwards is followed by another and steps are marked by
                `mask`, `seq_lengths` or `reset`.
        """
        refuse_linen_ways(self, training)
        off = self.deterministic if deterministic is None else deterministic
        check_flags(deterministic=off)
        layers, streams = self.layers, split_streams(rngs, 2 * self.count)
        options = {"mask": mask, "seq_lengths": seq_lengths, "reset": reset}

        def run(index: int, inputs: Output, initial_state: State) -> Output:
            own = {"deterministic": deterministic, "rngs": streams[index]}
            return layers[index](inputs, initial_state=initial_state, **own, **options)

        def drop(index: int, outputs: jax.Array) -> jax.Array:
            if off or not self.dropout:
                return outputs
            given = streams[self.count + index]
            key = draw_key("dropout", self.dropout_stream if given is None else given)
            return outputs * dropout_mask(key, self.dropout, outputs.shape, outputs.dtype)

        marks = (mask, seq_lengths, reset)
        return run_stack(layers, run, drop, inputs, initial_state, marks)
