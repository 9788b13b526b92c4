"""Keras' GRU layer as an NNX module."""

import dataclasses
from typing import Any

from flax import nnx

from gruflax.layers.fields import loop_for
from gruflax.nnx.layer import Layer
from gruflax.nnx.weights import GRUWeights


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GRU(GRUWeights, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names and defaults.

        gru = gruflax.nnx.GRU(4, 8, return_sequences=True, dropout=0.1, rngs=nnx.Rngs(0))
        outputs = gru(inputs, mask=mask)

    Arguments and parameters: those of `GRUWeights` and `Layer`, and these.

    Attributes:
        use_cudnn: "auto" or False leave the choice of the loop to `loop`; True is `loop="cudnn"`,
            and raises where cuDNN cannot run.
        loop: which loop runs it, see `gruflax.functional.gru_sequence`.
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again.

    Sources: Keras 3's `GRU`; arXiv:1406.1078.
    """

    use_cudnn: bool | str = "auto"
    loop: str = "auto"
    remat: bool = False

    def __post_init__(self, rngs: nnx.Rngs):
        GRUWeights.__post_init__(self, rngs)
        Layer.__post_init__(self)

    def loop_options(self) -> dict[str, Any]:
        """Returns which loop the attributes ask for."""
        return {"loop": loop_for(self.use_cudnn, self.loop), "remat": self.remat}
