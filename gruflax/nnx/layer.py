"""What recurrent layers make of their cell's outputs and states."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from gruflax.layers.any_cell import step_shape
from gruflax.layers.calls import refuse_linen_ways, refuse_positional
from gruflax.layers.fields import Identifier, check_layer_fields
from gruflax.layers.protocols import Cell, RecurrentLayer, State
from gruflax.layers.states import as_tuple, cast_states
from gruflax.nnx.state import load_state, reset_states, store_state
from gruflax.nnx.training import sow_activity_loss
from gruflax.nnx.weights import Streams


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class Layer(nnx.Module):
    """A cell over a sequence: the arguments that Keras' `GRU` and `RNN` share, see `gruflax.GRU`.

    Attributes:
        stateful: begins with the state that the last call left in `h`, a `RecurrentState`. The
            first call makes it, or `init_state`.
        activity_regularizer: captured as `gruflax.nnx.ActivityLoss`.
    """

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False
    activity_regularizer: Identifier = None
    time_major: bool = False

    def __post_init__(self):
        check_layer_fields(self)

    @property
    def step_cell(self) -> Cell:
        """Returns what has the cell's `initialize_carry` and `num_feature_axes`."""
        return cast(Cell, self)

    def __call__(
        self,
        inputs: ArrayLike,
        *by_position: Any,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: State = None,
        initial_state: State = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Any:
        """Runs the layer over a sequence: arguments, results and errors are those of `gruflax.GRU`.

        Args:
            deterministic: whether dropout is off; None is the cell's attribute.
            rngs: stream "dropout", or the key itself; None is the stream kept.
            training: refused: NNX has `deterministic`, `train()` and `eval()`.
        """
        refuse_positional(self, by_position)
        refuse_linen_ways(self, training)
        if self.stateful:
            stored = load_state(self, self._own_state(inputs))
            initial_state = stored if initial_state is None else initial_state
        outputs, state = cast(RecurrentLayer, self).sequence(
            inputs,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            initial_state=initial_state,
            deterministic=deterministic,
            rngs=rngs,
            go_backwards=self.go_backwards,
            time_major=self.time_major,
            unroll=self.unroll,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
        )
        if self.stateful:
            store_state(self, state)
        result = (outputs, *as_tuple(state)) if self.return_state else outputs
        sow_activity_loss(self, result)
        return result

    def mirrored(self, rngs: nnx.Rngs) -> "Layer":
        """Returns a layer like this one with new weights, that goes the other way."""
        return rebuilt(self, rngs, go_backwards=not self.go_backwards)

    def init_state(self, input_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> None:
        """Makes the state of a stateful layer before its first call, as that call will leave it.

        Transformations that know a module's structure from the start, such as `nnx.scan`, need it.

        Args:
            input_shape: of the inputs, time and features included.
            dtype: of the inputs.

        Raises:
            AttributeError: the layer is not stateful.
        """
        if not self.stateful:
            raise AttributeError(f"Layer must be stateful, got stateful={self.stateful}.")
        inputs = jax.ShapeDtypeStruct(tuple(input_shape), dtype)

        def last_state(inputs):
            layer = cast(RecurrentLayer, nnx.clone(self))
            return layer.sequence(inputs, deterministic=True, time_major=self.time_major)[1]

        # A call computes in a dtype that its parameters and inputs choose together.
        state = jax.eval_shape(last_state, inputs)
        store_state(self, cast_states(self._own_state(inputs), state))

    def reset_states(self, states: State = None) -> None:
        """Resets the stored state, see `gruflax.nnx.reset_states`."""
        reset_states(self, states)

    def _own_state(self, inputs: Any) -> State:
        cell = self.step_cell
        shape = step_shape(inputs, cell.num_feature_axes, self.time_major)
        return initial_carry(cell, shape)


def initial_carry(cell: Cell, input_shape: tuple[int, ...]) -> State:
    """Returns a cell's own initial state for steps of a shape."""
    # Flax's cells begin with zeros unless told otherwise; nnx.RNN uses this stream too.
    return cell.initialize_carry(input_shape, nnx.RngStream(0, tag="carry"))


def rebuilt(module: Any, rngs: nnx.Rngs, **changes: Any) -> Any:
    """Makes a module of the same arguments, but for the changes, with new weights."""
    names = [field.name for field in dataclasses.fields(module) if field.init]
    arguments = {name: getattr(module, name) for name in names} | changes
    return type(module)(**arguments, rngs=rngs)
