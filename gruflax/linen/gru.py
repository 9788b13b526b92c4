"""Keras' GRU layer."""

from typing import Any

from flax import linen as nn

from gruflax.layers.fields import Identifier, loop_for
from gruflax.linen.layer import Layer
from gruflax.linen.parameters import GRUFields, VariantFields


class GRU(GRUFields, VariantFields, Layer):
    """A GRU over a sequence: Keras' `GRU` with its argument names, order and defaults.

    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or
    [3u]; columns z | r | h, as in Keras, and as `gruflax.functional.gru_sequence` takes them.

    The order of the fields is Keras'.

    Attributes:
        units: this and all others that are not here: as `gruflax.GRUCell`.
        activity_regularizer: a Keras name, config dict, or `f(output) -> loss`, of each output,
            summed over the batch.
        return_sequences: returns the output of every step instead of the last one.
        return_state: returns the state too.
        go_backwards: processes the last step first; outputs come in the order of processing.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state".
        unroll: a Python loop instead of a scan.
        use_cudnn: "auto" or False leave the choice of the loop to `loop`; True is `loop="cudnn"`,
            and raises where cuDNN cannot run.
        zero_output_for_mask: outputs are zeros, instead of the carried state, at masked steps.
        time_major: inputs, masks and outputs have time as the first axis.
        loop: which loop runs it, see `gruflax.functional.gru_sequence`.
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again.

    Sources: Keras 3's `GRU`; arXiv:1406.1078.
    """

    activity_regularizer: Identifier = None
    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    reset_after: bool = True
    use_cudnn: bool | str = "auto"
    zero_output_for_mask: bool = False
    implementation: int = 2
    time_major: bool = False
    loop: str = "auto"
    remat: bool = False

    @nn.nowrap
    def loop_options(self) -> dict[str, Any]:
        """Returns which loop the fields ask for."""
        return {"loop": loop_for(self.use_cudnn, self.loop), "remat": self.remat}
