"""The GRU cell as a Flax module."""

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.step import gru_cell_step
from gruflax.layers.any_cell import step_key
from gruflax.layers.fields import Identifier
from gruflax.layers.protocols import State
from gruflax.layers.states import nested_like, single_state
from gruflax.linen.parameters import GRUFields, VariantFields, declare_params, dropout_key


class GRUCell(GRUFields, VariantFields, nn.RNNCellBase):
    """One step of a GRU: Keras' `GRUCell` as a `flax.linen` RNN cell.

    It runs wherever Flax's cells run: in `flax.linen.RNN`, `nn.Bidirectional`, `nn.scan`,
    `nn.vmap`, and in `gruflax.RNN`, which takes its fast loop. Parameters: `kernel` [f, 3u],
    `recurrent_kernel` [u, 3u] and `bias` [2, 3u] (`reset_after`) or [3u]; columns z | r | h.

    Dropout masks are drawn at each call from the "dropout" stream. In `flax.linen.RNN`,
    `split_rngs={"params": False, "dropout": False}` gives the same masks at every step, as in
    Keras.

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
        kernel_constraint: a Keras name, config dict, or `f(kernel) -> kernel`; applied by
            `gruflax.constraints`.
        recurrent_constraint: the same, for `recurrent_kernel`.
        bias_constraint: the same, for `bias`.
        dropout: rate in [0, 1] at which input features are dropped.
        recurrent_dropout: rate in [0, 1] at which state units are dropped.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, torch,
            Keras 3) or before it (the paper, Keras 1).
        seed: gives the dropout key when the "dropout" stream is absent.
        implementation: 1 draws dropout masks for each gate, 2 shares one.
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

    Sources: Keras 3's `GRUCell`; arXiv:1406.1078.
    """

    kernel_constraint: Identifier = None
    recurrent_constraint: Identifier = None
    bias_constraint: Identifier = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reset_after: bool = True
    seed: int | None = None
    implementation: int = 2

    @nn.compact
    def __call__(
        self, states: ArrayLike | tuple | list, inputs: ArrayLike, training: bool = False
    ) -> tuple[State, jax.Array]:
        """Takes one step.

        Args:
            states: `[..., u]`, or a tuple or list of one such array, as Keras passes it.
            inputs: `[..., f]`.
            training: whether to apply dropout.

        Returns:
            `(states, output)`: the new state, nested as it was given, and the output `[..., u]`.

        Raises:
            ValueError: a shape does not fit, or there is more than one state.
        """
        params, key = declare_params(self, inputs), dropout_key(self, training)
        state, output = gru_cell_step(
            params,
            single_state("states", states),
            inputs,
            key,
            config=self.config,
            zoneout_rng=step_key(key) if self.zoneout else None,
            dtype=self.dtype,
            precision=self.precision,
        )
        return nested_like(states, state), output
