"""Keras' GRU layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.config import Activation, GRUConfig
from gruflax.layers.calls import by_keyword
from gruflax.layers.fields import Identifier, config_of, loop_for, settle_fields
from gruflax.linen.cell import GRUCell
from gruflax.linen.config import Configurable
from gruflax.linen.layer import call_layer
from gruflax.linen.state import Resettable


class GRU(Resettable, Configurable):
    """A GRU over a sequence: Keras' `GRU` with its argument names, order and defaults.

    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or
    [3u]; columns z | r | h, as in Keras, and as `gruflax.functional.gru_sequence` takes them.

    Attributes:
        units: size of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
        recurrent_activation: of the update and the reset gate.
        use_bias: whether there is a bias.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`.
        recurrent_initializer: the same, for `recurrent_kernel`.
        bias_initializer: the same, for `bias`.
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; sown into "losses".
        recurrent_regularizer: the same, for `recurrent_kernel`.
        bias_regularizer: the same, for `bias`.
        activity_regularizer: the same, for each output, summed over the batch.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`.
        recurrent_constraint: the same, for `recurrent_kernel`.
        bias_constraint: the same, for `bias`.
        dropout: rate in [0, 1] at which input features are dropped, the same at every step.
        recurrent_dropout: rate in [0, 1] at which state units are dropped, the same at every step.
        seed: gives the dropout key when the "dropout" stream is absent.
        return_sequences: returns the output of every step instead of the last one.
        return_state: returns the state too.
        go_backwards: processes the last step first; outputs come in the order of processing.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state".
        unroll: a Python loop instead of a scan.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1).
        use_cudnn: "auto" or False leave the choice of the loop to `loop`; True is `loop="cudnn"`,
            and raises where cuDNN cannot run.
        zero_output_for_mask: outputs are zeros, instead of the carried state, at masked steps.
        implementation: 1 draws dropout masks for each gate, 2 shares one.
        time_major: inputs, masks and outputs have time as the first axis.
        loop: which loop runs it, see `gruflax.functional.gru_sequence`.
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again.
        dtype: to compute in; None promotes parameters and inputs.
        param_dtype: of the parameters.
        precision: of the products, as in `jax.numpy.dot`.
        recurrent_weight_dropout: rate in [0, 1] at which recurrent weights are dropped, the same at
            every step (DropConnect, arXiv:1708.02182).
        zoneout: rate in [0, 1] at which a unit keeps its state, drawn at every step
            (arXiv:1606.01305); at inference the state moves by the expectation.
        learn_initial_state: a parameter `initial_state` [u], zeros at first, is what a sequence
            begins with that is given no other.
        partitioned: parameters are boxed with their logical axis names, `flax.linen`'s partitioning
            metadata: "features" and "units" for the rows of the kernels, "gates" for the columns.

    Sources: Keras 3's `GRU`; arXiv:1406.1078.
    """

    units: int
    activation: Activation | Mapping[str, Any] = "tanh"
    recurrent_activation: Activation | Mapping[str, Any] = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Identifier = "glorot_uniform"
    recurrent_initializer: Identifier = "orthogonal"
    bias_initializer: Identifier = "zeros"
    kernel_regularizer: Identifier = None
    recurrent_regularizer: Identifier = None
    bias_regularizer: Identifier = None
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
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None
    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False
    partitioned: bool = False

    def __post_init__(self):
        settle_fields(self)
        super().__post_init__()

    @property
    def config(self) -> GRUConfig:
        """Returns what the GRU computes, as `gruflax.functional` takes it."""
        return config_of(self)

    @nn.compact
    @by_keyword
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: ArrayLike | None = None,
        training: bool = False,
        initial_state: ArrayLike | tuple | list | None = None,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
                Without one, `[t, f]` is one sequence, as in Flax: a forgotten axis looks the same.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                state and the output stay what they were.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step.
            reset_state: `[..., u]`, with `reset`; None is `initial_state`, or zeros where a
                stateful layer carries its state on.
            training: whether to apply dropout, with masks from the "dropout" stream.
            initial_state: `[..., u]`, or a tuple or list of one such array; None is the stored
                state of a stateful layer, else the learned one, else zeros.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and the state `[..., u]`.

        Raises:
            TypeError: `training` is traced or no bool, `seq_lengths` are not integers, `inputs` are
                token ids, or something else than `inputs` came by position.
            ValueError: a shape does not fit, `use_cudnn` cannot be met, the batch size of a
                stateful layer changed, or dropout has no key; the message names the argument.
        """
        loop = loop_for(self.use_cudnn, self.loop)
        fields = (field.name for field in dataclasses.fields(GRUCell) if field.init)
        cell = GRUCell(
            **{name: getattr(self, name) for name in fields if name not in ("parent", "name")}
        )
        # The parameters are the layer's own, without a level for the cell.
        nn.share_scope(self, cell)
        return call_layer(
            self,
            cell,
            inputs,
            initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            training=training,
            loop=loop,
            remat=self.remat,
        )

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple[jax.Array]:
        """Returns the state before the first step: a tuple of `[batch_size, u]` zeros."""
        return GRUCell(
            self.units, dtype=self.dtype, param_dtype=self.param_dtype, parent=None
        ).get_initial_state(batch_size)
