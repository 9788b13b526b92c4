"""Keras' Bidirectional layer as an NNX module."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.layers.calls import other_system, refuse_linen_ways, refuse_positional
from gruflax.layers.directions import Pair, check_merge_mode, check_pair, run_directions
from gruflax.nnx.layer import Layer
from gruflax.nnx.weights import Streams, each_streams


class Bidirectional(Pair, nnx.Module):
    """Runs a layer over a sequence and another one over it backwards: Keras' `Bidirectional`.

        both = gruflax.nnx.Bidirectional(gruflax.nnx.GRU(4, 8, rngs=rngs), rngs=rngs)
        outputs = both(inputs, mask=mask)

    As in Keras, sequences of outputs are zeros at masked steps, whatever the layers say.

    Args:
        forward_layer: a `gruflax.nnx.GRU` or `RNN`.
        backward_layer: one that goes the other way; None makes one with the same arguments.
        merge_mode: as `gruflax.Bidirectional`.
        rngs: stream "params" for the weights of the `backward_layer` that is made.

    Raises:
        TypeError: a layer is none of gruflax's, or `rngs` is missing.
        ValueError: the layers do not go together, or `merge_mode` is unknown.
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
        # Zeros at masked steps are the pair's.
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
        *by_position: Any,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_state: tuple | list | None = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Any:
        """Runs both layers over a sequence, as `gruflax.Bidirectional`.

        `deterministic` and `rngs` are those of `gruflax.nnx.GRU`, for both layers.
        """
        refuse_positional(self, by_position)
        refuse_linen_ways(self, training)
        layers = self.forward_layer, self.backward_layer
        streams = each_streams(rngs, 2)

        def run(layer: Layer, **options: Any) -> Any:
            own = streams[layers.index(layer)]
            return layer(inputs, deterministic=deterministic, rngs=own, **options)

        return run_directions(
            run,
            layers,
            inputs,
            self.forward_layer.step_cell.num_feature_axes,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
        )


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, Layer):
        cell = isinstance(layer, nnx.RNNCellBase)
        remedy = ": run the cell by gruflax.nnx.RNN" if cell else other_system(layer, Layer)
        raise TypeError(f"{name} must be a gruflax.nnx.GRU or RNN, got {brief(layer)}{remedy}.")
