"""v1's cell: one step of a GRU, with dropout masks that last for a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from gruflax.compat.v1.common import MASKS, V1Module, masks_for, stacked_masks
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.params import check_size
from gruflax.functional.step import gru_cell_step
from gruflax.layers.fields import Identifier
from gruflax.layers.nesting import single_state
from gruflax.linen.gru import declare_params


class GRUCell(V1Module):
    """One step of a GRU, as `tf.compat.v1.keras.layers.GRUCell` takes it.

    The arguments, their order and their defaults are v1's, and so is the order of the call.
    Parameters: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [3u] or [2, 3u]
    (`reset_after`); columns z | r | h.

    Dropout masks are cached in the collection "dropout_masks", so that all steps of a batch share
    them: make the collection mutable, and hand it from step to step.

        apply = functools.partial(cell.apply, training=True, mutable=["dropout_masks"])

        @jax.jit
        def step(variables, states, x, key):
            (output, states), new = apply(variables, x, states, rngs={"dropout": key})
            return output, states, {**variables, **new}

    The first step of a batch draws the masks, the following ones reuse them, and a batch begins
    anew without the collection, or after `reset_dropout_mask` and `reset_recurrent_dropout_mask`.
    Where the collection is not mutable, each call draws its own.

    Attributes:
        units: size u of the state.
        activation: of the candidate: a Keras name, config dict or callable; None is linear.
            Default "tanh".
        recurrent_activation: of the update and the reset gate, alike. Default "hard_sigmoid", which
            is `clip(0.2 x + 0.5, 0, 1)`.
        use_bias: whether there is a bias. Default True.
        kernel_initializer: a Keras name, config dict, or `f(key, shape, dtype)`. Default
            "glorot_uniform".
        recurrent_initializer: the same, for `recurrent_kernel`. Default "orthogonal".
        bias_initializer: the same, for `bias`. Default "zeros".
        kernel_regularizer: a Keras name, config dict, or `f(kernel) -> loss`; the loss is sown into
            the collection "losses". Default None.
        recurrent_regularizer: the same, for `recurrent_kernel`. Default None.
        bias_regularizer: the same, for `bias`. Default None.
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`. Default None.
        recurrent_constraint: the same, for `recurrent_kernel`. Default None.
        bias_constraint: the same, for `bias`. Default None.
        dropout: rate at which input features are dropped, clamped to [0, 1]. Default 0.
        recurrent_dropout: rate at which state units are dropped, clamped to [0, 1]. Default 0.
        implementation: 1 has dropout masks for each gate, 2 one for all; 1 with recurrent dropout.
            Default 1.
        reset_after: whether the reset gate acts after the recurrent product or before it. Default
            False.
        dtype: to compute in; None promotes parameters and inputs. Default None.
        param_dtype: of the parameters. Default float32.
        precision: of the products, as in `jax.numpy.dot`. Default None.
        name: of the module, as in Flax.

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
        self, inputs: ArrayLike, states: Any, training: bool | None = None
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
    ) -> jax.Array | list[jax.Array] | None:
        """Returns the dropout masks of the inputs, from the cache where there are some.

        None at rate 0; an array like `inputs` for a count of 1; else a list of them. Without
        `training` they are ones; that and the count say nothing once masks are cached.
        """
        return self._cached_masks("inputs", inputs, self.dropout, training, count)

    def get_recurrent_dropout_mask_for_cell(
        self, inputs: ArrayLike, training: bool | None, count: int = 1
    ) -> jax.Array | list[jax.Array] | None:
        """Returns the dropout masks of the state, as `get_dropout_mask_for_cell`."""
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
    ) -> jax.Array | list[jax.Array] | None:
        masks = masks_for(self, name, np.shape(inputs), rate, training, count)
        if masks is not None and self.is_mutable_collection(MASKS) and not self.is_initializing():
            self.put_variable(MASKS, name, masks)
        return masks
