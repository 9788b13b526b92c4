"""Layers on top of each other, with dropout in between, as an NNX module."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.checks import check_flags
from gruflax.functional.config import checked_rate
from gruflax.functional.dropout import dropout_mask
from gruflax.layers.calls import refuse_linen_ways, refuse_positional
from gruflax.layers.protocols import State
from gruflax.layers.stacks import check_stack, run_stack
from gruflax.nnx.bidirectional import Bidirectional
from gruflax.nnx.layer import Layer
from gruflax.nnx.weights import Streams, each_streams, stream


class Stack(nnx.Module):
    """Runs recurrent layers one after the other: a multi-layer GRU as in PyTorch.

        encoder = gruflax.nnx.Stack(
            [GRU(4, 8, return_sequences=True, rngs=rngs), GRU(8, 8, rngs=rngs)],
            dropout=0.2,
            rngs=rngs,
        )

    The layers are attributes `layers_0`, `layers_1`, ..., as the parameters of the linen layer are.

    Args:
        layers: a `gruflax.nnx.GRU`, `RNN` or `Bidirectional` each, as `gruflax.Stack` wants them.
        dropout: rate in [0, 1] at which the outputs of each layer but the last are dropped, drawn
            anew for each number of each step.
        deterministic: whether that dropout is off; `module.eval()` and `module.train()` set it.
        rngs: stream "dropout", of which a fork is kept; needed where `dropout` is not 0.

    Raises:
        TypeError: `layers` is no list of layers, or `rngs` is missing.
        ValueError: the layers do not go together, or `dropout` is no rate.

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
        check_stack(layers, (Layer, Bidirectional), "gruflax.nnx.GRU, RNN or Bidirectional")
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
        *by_position: Any,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        initial_state: tuple | list | None = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Any:
        """Runs the layers over a sequence, as `gruflax.Stack`.

        `deterministic` and `rngs` are those of `gruflax.nnx.GRU`, for the layers and for the
        dropout between them.
        """
        refuse_positional(self, by_position)
        refuse_linen_ways(self, training)
        off = self.deterministic if deterministic is None else deterministic
        check_flags(deterministic=off)
        layers, streams = self.layers, each_streams(rngs, 2 * self.count)
        options = {"mask": mask, "seq_lengths": seq_lengths, "reset": reset}

        def run(index: int, inputs: Any, initial_state: State) -> Any:
            own = {"deterministic": deterministic, "rngs": streams[index]}
            return layers[index](inputs, initial_state=initial_state, **own, **options)

        def drop(index: int, outputs: jax.Array) -> jax.Array:
            if off or not self.dropout:
                return outputs
            given = streams[self.count + index]
            kept = self.dropout_stream if given is None else given
            key = kept if isinstance(kept, jax.Array) else stream("dropout", kept)()
            return outputs * dropout_mask(key, self.dropout, outputs.shape, outputs.dtype)

        marks = (mask, seq_lengths, reset)
        return run_stack(layers, run, drop, inputs, initial_state, marks)
