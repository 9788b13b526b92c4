"""Keras' Bidirectional layer as an NNX module."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.layers.calls import by_keyword
from gruflax.layers.directions import check_merge_mode, check_pair, run_directions
from gruflax.nnx.layer import Layer
from gruflax.nnx.weights import Streams


class Bidirectional(nnx.Module):
    """Runs a layer over a sequence and another one over it backwards: Keras' `Bidirectional`.

        both = gruflax.nnx.Bidirectional(gruflax.nnx.GRU(4, 8, rngs=rngs), rngs=rngs)
        outputs = both(inputs, mask=mask)

    As in Keras, outputs at masked steps are zeros where both layers return sequences.

    Args:
        forward_layer: a `gruflax.nnx.GRU` or `RNN`.
        backward_layer: one that goes the other way; None makes one with the same arguments.
        merge_mode: "concat", "sum", "ave", "mul", or None for a tuple of both outputs.
        rngs: stream "params" for the weights of the `backward_layer` that is made.

    Raises:
        TypeError: a layer is none of gruflax's, or `rngs` is missing.
        ValueError: the layers do not go together, or `merge_mode` is unknown.

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
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode

    @by_keyword
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
    ) -> Any:
        """Runs both layers over a sequence and merges their outputs.

        Args:
            inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                step does not count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count.
            reset: `[..., t]` or `[..., t, 1]`; True at the first step of each part of a sequence:
                no state goes from part to part, in either direction.
            initial_state: the states of the forward layer, then those of the backward layer.
            deterministic: whether dropout is off; None is the layers' attribute.
            rngs: stream "dropout", or a key; None is the streams kept.

        Returns:
            The merged outputs, in the order of the forward layer's; with `return_state` a tuple of
            them, the states of the forward layer, and those of the backward layer.

        Raises:
            ValueError: a shape or the number of states does not fit; the message names the
                argument.
        """
        layers = self.forward_layer, self.backward_layer
        streams = jax.random.split(rngs) if isinstance(rngs, jax.Array) else (rngs, rngs)

        def run(layer, initial_state, reset):
            return layer.call(
                inputs,
                initial_state,
                zero_output_for_mask=layer.return_sequences,
                mask=mask,
                seq_lengths=seq_lengths,
                reset=reset,
                deterministic=deterministic,
                rngs=streams[layers.index(layer)],
            )

        return run_directions(
            run,
            layers,
            inputs,
            self.forward_layer.step_cell.num_feature_axes,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            reset=reset,
        )


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, Layer):
        remedy = ": run the cell by gruflax.nnx.RNN" if isinstance(layer, nnx.RNNCellBase) else ""
        raise TypeError(f"{name} must be a gruflax.nnx.GRU or RNN, got {brief(layer)}{remedy}.")
