"""The GRU cell as an NNX module."""

import dataclasses

import jax
from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.step import gru_cell_step
from gruflax.layers.any_cell import step_key
from gruflax.layers.calls import refuse_linen_ways
from gruflax.layers.protocols import State
from gruflax.layers.states import nested_like, single_state
from gruflax.nnx.weights import GRUWeights, Streams


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(GRUWeights, nnx.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.nnx` RNN cell.

        cell = gruflax.nnx.GRUCell(4, 8, rngs=nnx.Rngs(0))
        state = cell.initialize_carry(x.shape)
        state, output = cell(state, x)

    It runs wherever Flax's cells run: in `flax.nnx.RNN`, `nnx.Bidirectional`, `nnx.scan`, and in
    `gruflax.nnx.RNN`, which takes its fast loop. Arguments and parameters: see `GRUWeights`.

    Dropout masks are drawn at each call: `flax.nnx.RNN` drops anew at every step;
    `gruflax.nnx.RNN`, as Keras, draws one mask for all steps.

    Sources: Keras 3's `GRUCell`; arXiv:1406.1078.
    """

    def __call__(
        self,
        carry: ArrayLike | tuple | list,
        inputs: ArrayLike,
        *,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
    ) -> tuple[State, jax.Array]:
        """Takes one step.

        Args:
            carry: the state `[..., u]`, or a tuple or list of one such array, as Keras passes it.
            inputs: `[..., f]`.
            deterministic: whether dropout is off; None is the attribute.
            rngs: stream "dropout", or the key itself; None is the stream kept.

        Returns:
            `(carry, output)`: the new state, nested as it was given, and the output `[..., u]`.
        """
        refuse_linen_ways(self)
        key = self.dropout_key(deterministic, rngs)
        state, output = gru_cell_step(
            self.params,
            single_state("carry", carry),
            inputs,
            key,
            config=self.config,
            zoneout_rng=step_key(key) if self.zoneout else None,
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(carry, state), output
