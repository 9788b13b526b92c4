"""TensorFlow 1's GRUCell, with dropout masks that last for a batch, and its GRU layer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from gruflax.compat.v1.common import MASKS, Masks, V1Module, masks_for, stacked_masks
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.masks import steps_to_mask, where_steps
from gruflax.functional.params import check_size
from gruflax.functional.sequence import gru_sequence
from gruflax.functional.step import gru_cell_step
from gruflax.keras_names import regularizers
from gruflax.layers.cell_loop import step_shape
from gruflax.layers.fields import Identifier, loop_options
from gruflax.layers.nesting import State, single_state
from gruflax.linen.gru import declare_params
from gruflax.linen.layer import Layer, sow_activity_loss
from gruflax.linen.state import COLLECTION, load_state, store_state


class GRUCell(V1Module):
    """One step of a GRU, as in `tf.compat.v1.keras.layers.GRUCell`.

    The arguments, their order and their defaults are v1's, and so is the order of the call.
    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [3u] or [2, 3u]
    (`reset_after`); columns z | r | h.

    Dropout masks are cached in the collection "dropout_masks", so that all steps of a batch share
    them: make the collection mutable, and hand it from step to step::

        apply = functools.partial(cell.apply, training=True, mutable=["dropout_masks"])

        @jax.jit
        def step(variables, states, x, key):
            (output, states), new = apply(variables, x, states, rngs={"dropout": key})
            return output, states, {**variables, **new}

    The first step of a batch draws the masks, and the following steps reuse them. New masks are
    drawn if the collection is left out, or after `reset_dropout_mask` and
    `reset_recurrent_dropout_mask`. If the collection is not mutable, each call draws its own masks.

    Attributes:
        units: size u of the state.
        activation: activation of the candidate state: a Keras name, a config dict, or a function
            `f(array) -> array`; None is linear. Default "tanh".
        recurrent_activation: activation of the update and reset gates, given like `activation`.
            Default "hard_sigmoid", which is `clip(0.2 x + 0.5, 0, 1)`.
        use_bias: whether the GRU has a bias. Default True.
        kernel_initializer: initializer of `kernel`: a Keras name, a config dict, or a function
            `f(key, shape, dtype)`. Default "glorot_uniform".
        recurrent_initializer: initializer of `recurrent_kernel`, given like `kernel_initializer`.
            Default "orthogonal".
        bias_initializer: initializer of `bias`, given like `kernel_initializer`. Default "zeros".
        kernel_regularizer: regularizer of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> loss`; the loss is sown into the collection "losses". Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate at which input features are dropped, clamped to [0, 1]. Default 0.
        recurrent_dropout: rate at which state units are dropped, clamped to [0, 1]. Default 0.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1. Default 1.
        reset_after: whether the reset gate is applied after the recurrent product or before it.
            Default False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        name: name of the module, as in Flax. Default None.

    Source: `tf.compat.v1.keras.layers.GRUCell` of TensorFlow 2.2.
    """

    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    implementation: int = 1
    reset_after: bool = False

    @nn.compact
    def __call__(
        self, inputs: ArrayLike, states: State, training: bool | None = None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Takes one step of `[b, f]`: `(output, [state])`, given a list of one state `[b, u]`.

        `training` says whether to apply dropout; None is False.

        Raises:
            ValueError: a shape does not fit, or there is more than one state.
        """
        params = declare_params(self, inputs)
        state = single_state("states", states)
        count = 3
        masks = DropoutMasks(
            stacked_masks(self, self.get_dropout_mask_for_cell(inputs, training, count)),
            stacked_masks(self, self.get_recurrent_dropout_mask_for_cell(state, training, count)),
        )
        state, output = gru_cell_step(
            params,
            state,
            inputs,
            config=self.config,
            dropout_masks=masks,
            dtype=self.dtype,
            precision=self.precision,
        )
        return output, [state]

    def get_dropout_mask_for_cell(
        self, inputs: ArrayLike, training: bool | None, count: int = 1
    ) -> Masks:
        """Returns the dropout masks of the inputs, from the cache where there are some.

        They are None at rate 0, an array with the shape of `inputs` for a count of 1, and else a
        list of them. Without `training` they are ones. Cached masks are returned unchanged,
        whatever `training` and `count` are.
        """
        return self._cached_masks("inputs", inputs, self.dropout, training, count)

    def get_recurrent_dropout_mask_for_cell(
        self, inputs: ArrayLike, training: bool | None, count: int = 1
    ) -> Masks:
        """Returns the dropout masks of the state, see `get_dropout_mask_for_cell`."""
        return self._cached_masks("recurrent", inputs, self.recurrent_dropout, training, count)

    def reset_dropout_mask(self) -> None:
        """Forgets the cached masks of the inputs; "dropout_masks" must be mutable."""
        self.put_variable(MASKS, "inputs", None)

    def reset_recurrent_dropout_mask(self) -> None:
        """Forgets the cached masks of the state; "dropout_masks" must be mutable."""
        self.put_variable(MASKS, "recurrent", None)

    @nn.nowrap
    def get_initial_state(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: ArrayLike | None = None,
        batch_size: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> jax.Array:
        """Returns `[b, u]` zeros, of the batch size and dtype of `inputs`, or of those given.

        Raises:
            ValueError: neither `inputs` nor both others are given.
        """
        if inputs is not None:
            batch_size, dtype = np.shape(inputs)[0], jnp.result_type(inputs)
        if batch_size is None or dtype is None:
            raise ValueError(
                "get_initial_state needs inputs, or both batch_size and dtype, got "
                f"batch_size={batch_size} and dtype={dtype}."
            )
        check_size("batch_size", batch_size)
        return jnp.zeros((batch_size, self.units), dtype)

    def _cached_masks(
        self, name: str, inputs: ArrayLike, rate: float, training: bool | None, count: int
    ) -> Masks:
        masks = masks_for(self, name, np.shape(inputs), rate, training, count)
        if masks is not None and self.is_mutable_collection(MASKS) and not self.is_initializing():
            self.put_variable(MASKS, name, masks)
        return masks


class GRU(V1Module, Layer):
    """A GRU over a sequence, as `tf.compat.v1.keras.layers.GRU` computes it.

    The arguments, their order and their defaults are v1's, and so is the order of the call. The
    numbers are v1's where they differ from Keras 3's: "hard_sigmoid", zeros as the output before
    the first valid step, an activity loss divided by the batch size, rates clamped to [0, 1]; and
    several outputs are returned as a list.

    Dropout masks are drawn once per call. Masks in the collection "dropout_masks" are used instead:
    `inputs` and `recurrent`, each an array or a list of three (z, r, h), `[b, f]` and `[b, u]`.

    Attributes:
        units: size u of the state.
        activation: activation of the candidate state: a Keras name, a config dict, or a function
            `f(array) -> array`; None is linear. Default "tanh".
        recurrent_activation: activation of the update and reset gates, given like `activation`.
            Default "hard_sigmoid", which is `clip(0.2 x + 0.5, 0, 1)`.
        use_bias: whether the GRU has a bias. Default True.
        kernel_initializer: initializer of `kernel`: a Keras name, a config dict, or a function
            `f(key, shape, dtype)`. Default "glorot_uniform".
        recurrent_initializer: initializer of `recurrent_kernel`, given like `kernel_initializer`.
            Default "orthogonal".
        bias_initializer: initializer of `bias`, given like `kernel_initializer`. Default "zeros".
        kernel_regularizer: regularizer of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> loss`; the loss is sown into the collection "losses". Default None.
        recurrent_regularizer: regularizer of `recurrent_kernel`, given like `kernel_regularizer`.
            Default None.
        bias_regularizer: regularizer of `bias`, given like `kernel_regularizer`. Default None.
        activity_regularizer: regularizer of each output and state that is returned: a Keras name, a
            config dict, or a function `f(output) -> loss`; the loss is divided by the size of the
            first axis and sown into the collection "losses". Default None.
        kernel_constraint: constraint of `kernel`: a Keras name, a config dict, or a function
            `f(kernel) -> kernel`, which `gruflax.constraints` applies. Default None.
        recurrent_constraint: constraint of `recurrent_kernel`, given like `kernel_constraint`.
            Default None.
        bias_constraint: constraint of `bias`, given like `kernel_constraint`. Default None.
        dropout: rate at which input features are dropped, clamped to [0, 1]. Default 0.
        recurrent_dropout: rate at which state units are dropped, clamped to [0, 1]. Default 0.
        implementation: 1 draws a dropout mask for each gate, 2 one mask for all gates; with
            recurrent dropout it is always 1. Default 1.
        return_sequences: whether to return the outputs of all steps, or only the last output.
            Default False.
        return_state: whether to return the last state too. Default False.
        go_backwards: whether to process the last step first; the outputs are in the order of
            processing. Default False.
        stateful: whether a call begins with the state that the previous call stored in the
            collection "recurrent_state". Default False.
        unroll: whether to unroll the loop over the steps. Default False.
        reset_after: whether the reset gate is applied after the recurrent product or before it.
            Default False.
        time_major: whether time is the first axis of inputs, masks and outputs. Default False.
        zero_output_for_mask: whether outputs at masked steps are zeros instead of the carried
            state. Default False.
        dtype: dtype of the computation; None takes the dtype to which parameters and inputs
            promote. Default None.
        param_dtype: dtype of the parameters. Default float32.
        precision: precision of the matrix products, as in `jax.numpy.dot`. Default None.
        name: name of the module, as in Flax. Default None.

    Source: `tf.compat.v1.keras.layers.GRU` of TensorFlow 1.15, 2.0 and 2.2.
    """

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

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        initial_state: State = None,
    ) -> jax.Array | list[jax.Array]:
        """Runs the GRU over a sequence.

        Args:
            inputs: `[b, t, f]`, or `[t, b, f]` with `time_major`.
            mask: `[b, t]` (`[t, b]`); where it is False the state stays what it was. None: all
                steps count.
            training: whether to apply dropout; None is False.
            initial_state: `[b, u]`, or a list of one array like it; None is the stored state of a
                stateful layer, else zeros.

        Returns:
            The outputs `[b, t, u]` (`[t, b, u]`), or the last one `[b, u]` without
            `return_sequences`; with `return_state` a list of them and the state `[b, u]`.
        """
        shape = np.shape(inputs)
        if len(shape) != 3:
            raise ValueError(f"inputs must have 3 axes, got shape {shape}.")
        own = self.own_state(shape)
        if self.stateful:
            stored = load_state(self, own)
            initial_state = stored if initial_state is None else initial_state
        # `_zeroed` puts in v1's zeros at masked steps.
        options = loop_options(self) | {"zero_output_for_mask": False}
        masks = self._dropout_masks(shape, bool(training))
        arguments = self.sequence_arguments(
            inputs, mask=mask, initial_state=initial_state, dropout_masks=masks, **options
        )
        outputs, state = gru_sequence(inputs=inputs, **arguments)
        if self.stateful:
            store_state(self, state, own)
        outputs = self._zeroed(outputs, mask)
        result = [outputs, state] if self.return_state else outputs
        if self.activity_regularizer is not None:
            sow_activity_loss(self, self._activity_loss, result)
        return result

    @nn.nowrap
    def _activity_loss(self, output: jax.Array) -> jax.Array:
        """Returns the activity loss of an output, as v1 does: divided by the size of an axis."""
        regularizer = regularizers.get(self.activity_regularizer, "activity_regularizer")
        return regularizer(output) / output.shape[0]

    def own_state(self, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the initial state of a sequence: zeros `[b, u]`."""
        return self.initialize_carry(None, step_shape(input_shape, 1, self.time_major))

    def _dropout_masks(self, shape: tuple[int, ...], training: bool) -> DropoutMasks:
        """Returns v1's dropout masks of inputs `[b, f]` and states `[b, u]`, cached or drawn."""
        batch = shape[1 if self.time_major else 0]
        sizes = {
            "inputs": (shape[2], self.dropout),
            "recurrent": (self.units, self.recurrent_dropout),
        }
        masks = (
            stacked_masks(self, masks_for(self, name, (batch, size), rate, training, 3))
            for name, (size, rate) in sizes.items()
        )
        return DropoutMasks(*masks)

    @property
    def states(self) -> list[jax.Array | None]:
        """Returns the stored state as v1 does, `[[b, u]]`, or `[None]` where nothing is stored."""
        bound = self.scope is not None
        return [self.get_variable(COLLECTION, "h") if bound else None]

    @nn.nowrap
    def get_initial_state(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: ArrayLike
    ) -> list[jax.Array]:
        """Returns the state before the first step of the inputs: a list of zeros `[b, u]`."""
        batch = np.shape(inputs)[1 if self.time_major else 0]
        return [jnp.zeros((batch, self.units), jnp.result_type(inputs))]

    def _zeroed(self, outputs: jax.Array, mask: ArrayLike | None) -> jax.Array:
        """Zeroes outputs as v1 does: those before the first valid step, or at all masked steps."""
        if mask is None:
            return outputs
        axis, shape = 0 if self.time_major else 1, np.shape(mask)
        valid = steps_to_mask("mask", mask, (shape[1 - axis],), shape[axis], axis)
        if valid is None or not valid.shape[axis]:
            return outputs
        valid = valid.swapaxes(0, axis)
        ordered = jnp.flip(valid, axis=0) if self.go_backwards else valid
        begun = jnp.cumsum(ordered, axis=0) > 0
        if not self.return_sequences:
            shown = ordered[-1] if self.zero_output_for_mask else begun[-1]
            return where_steps(shown, outputs, 0)
        if self.zero_output_for_mask:
            # TensorFlow's unrolled loop does not reverse the mask by which it puts in zeros.
            begun &= valid if self.unroll else ordered
        return where_steps(begun if self.time_major else begun.T, outputs, 0)
