"""v1's layer: a GRU over a sequence."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.compat.v1.common import V1Module, masks_for, stacked_masks, v1_activation
from gruflax.functional.config import Activation
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.masks import combined_mask, where_steps
from gruflax.layers.fields import Identifier
from gruflax.linen.cell import GRUCell as LinenCell
from gruflax.linen.layer import run_layer, sow_activity_loss
from gruflax.linen.state import COLLECTION, Resettable


class GRU(Resettable, V1Module):
    """A GRU over a sequence, as `tf.compat.v1.keras.layers.GRU` computes it.

    The arguments, their order and their defaults are v1's, and so is the order of the call. What
    follows v1 where `gruflax.GRU` follows Keras 3: "hard_sigmoid", zeros as the output before the
    first valid step, lists of outputs, an activity loss divided by the batch size, clamped rates.

    Dropout masks are drawn once a call. Masks in the collection "dropout_masks" are used instead:
    `inputs` and `recurrent`, each an array or a list of three (z, r, h), `[b, f]` and `[b, u]`.

    Attributes:
        units: size of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
        recurrent_activation: of the gates; "hard_sigmoid" is `clip(0.2 x + 0.5, 0, 1)`.
        use_bias: whether there is a bias.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`.
        recurrent_initializer: the same, for `recurrent_kernel`.
        bias_initializer: the same, for `bias`.
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; sown into "losses".
        recurrent_regularizer: the same, for `recurrent_kernel`.
        bias_regularizer: the same, for `bias`.
        activity_regularizer: the same, for each output, divided by the size of its first axis.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`.
        recurrent_constraint: the same, for `recurrent_kernel`.
        bias_constraint: the same, for `bias`.
        dropout: rate at which input features are dropped, clamped to [0, 1].
        recurrent_dropout: rate at which state units are dropped, clamped to [0, 1].
        implementation: 1 has dropout masks for each gate, 2 one for all; 1 with recurrent dropout.
        return_sequences: returns the output of every step instead of the last one.
        return_state: returns the state too.
        go_backwards: processes the last step first; outputs come in the order of processing.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state".
        unroll: a Python loop instead of a scan.
        reset_after: whether the reset gate acts after the recurrent product.
        time_major: inputs, masks and outputs have time as the first axis.
        zero_output_for_mask: outputs are zeros, instead of the last output, at masked steps.
        dtype: to compute in; None promotes parameters and inputs.
        param_dtype: of the parameters.
        precision: of the products, as in `jax.numpy.dot`.

    Source: `tf.compat.v1.keras.layers.GRU` of TensorFlow 1.15, 2.0 and 2.2.
    """

    units: int
    activation: Activation | Mapping[str, Any] = "tanh"
    recurrent_activation: Activation | Mapping[str, Any] = "hard_sigmoid"
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
    implementation: int = 1
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    reset_after: bool = False
    time_major: bool = False
    zero_output_for_mask: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        initial_state: Any = None,
    ) -> jax.Array | list[jax.Array]:
        """Runs the GRU over a sequence.

        Args:
            inputs: `[b, t, f]`, or `[t, b, f]` with `time_major`.
            mask: `[b, t]` (`[t, b]`), any dtype; where it is False the state stays what it was.
            training: whether to apply dropout; None is False.
            initial_state: `[b, u]`, or a list of one such array; None is the stored state of a
                stateful layer, else zeros.

        Returns:
            The outputs `[b, t, u]` (`[t, b, u]`), or the last one `[b, u]` without
            `return_sequences`; with `return_state` a list of them and the state `[b, u]`.

        Raises:
            ValueError: a shape does not fit, or dropout has no key; the message names the argument.
        """
        shape = np.shape(inputs)
        if len(shape) != 3:
            raise ValueError(f"inputs must have 3 axes, got shape {shape}.")
        time, batch = shape[:2] if self.time_major else shape[1::-1]
        sizes = {
            "inputs": (shape[2], self.dropout),
            "recurrent": (self.units, self.recurrent_dropout),
        }
        masks = DropoutMasks(
            *(
                stacked_masks(self, masks_for(self, name, (batch, size), rate, training, 3))
                for name, (size, rate) in sizes.items()
            )
        )
        outputs, state = run_layer(
            self, self._cell(), inputs, initial_state, mask=mask, dropout_masks=masks
        )
        axis = 0 if self.time_major else 1
        valid = combined_mask(mask, None, (batch,), time, axis)
        outputs = self._zeroed(outputs, valid if valid is None else jnp.moveaxis(valid, axis, 0))
        result = [outputs, state] if self.return_state else outputs
        sow_activity_loss(self, result, scale=lambda output: 1 / output.shape[0])
        return result

    @property
    def states(self) -> list[jax.Array | None]:
        """Returns the stored state as v1 does: `[[b, u]]`, or `[None]` where nothing is stored."""
        bound = self.scope is not None
        return [self.get_variable(COLLECTION, "h") if bound else None]

    @nn.nowrap
    def get_initial_state(self, inputs: ArrayLike) -> list[jax.Array]:
        """Returns the state before the first step: a list of `[b, u]` zeros.

        Args:
            inputs: `[b, t, f]`, or `[t, b, f]` with `time_major`, which gives the dtype.
        """
        batch = np.shape(inputs)[1 if self.time_major else 0]
        return [jnp.zeros((batch, self.units), jnp.result_type(inputs))]

    @nn.nowrap
    def _cell(self) -> LinenCell:
        """The cell whose loop computes this layer, with the layer's own parameters."""
        names = {field.name for field in dataclasses.fields(LinenCell) if field.init}
        names &= set(type(self).__dataclass_fields__) - {"parent", "name"}
        fields = {name: getattr(self, name) for name in names}
        for name in ("activation", "recurrent_activation"):
            fields[name] = v1_activation(fields[name])
        cell = LinenCell(**fields)
        nn.share_scope(self, cell)
        return cell

    @nn.nowrap
    def _zeroed(self, outputs: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Applies v1's zeros: before the first valid step, or wherever the mask says so."""
        if valid is None or not valid.shape[0]:
            return outputs
        ordered = jnp.flip(valid, axis=0) if self.go_backwards else valid
        begun = jnp.cumsum(ordered, axis=0) > 0
        if not self.return_sequences:
            shown = ordered[-1] if self.zero_output_for_mask else begun[-1]
            return where_steps(shown, outputs, 0)
        if self.zero_output_for_mask:
            # TensorFlow's unrolled loop zeroes the sequence by the mask that it did not reverse.
            begun &= valid if self.unroll else ordered
        return where_steps(begun if self.time_major else begun.T, outputs, 0)
