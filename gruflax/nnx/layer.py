"""What recurrent layers make of their cell's outputs and states."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from gruflax.layers.any_cell import run_sequence, step_shape
from gruflax.layers.calls import by_keyword
from gruflax.layers.fields import Identifier, check_layer_fields
from gruflax.layers.states import as_tuple
from gruflax.nnx.penalties import sow_activity_loss
from gruflax.nnx.state import load_state, reset_states, store_state
from gruflax.nnx.weights import Streams


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class Layer(nnx.Module):
    """A cell over a sequence: the arguments that Keras' `GRU` and `RNN` share.

    Attributes:
        return_sequences: returns the output of every step instead of the last one.
        return_state: returns the state too.
        go_backwards: processes the last step first; outputs come in the order of processing.
        stateful: begins with the state that the last call left in `h`, a `RecurrentState`. The
            first call makes it, or `init_state`.
        unroll: a Python loop instead of a scan.
        zero_output_for_mask: outputs are zeros, instead of the last output, at masked steps.
        activity_regularizer: a Keras name, config dict, or `f(output) -> loss`; captured as
            `gruflax.nnx.ActivityLoss`.
        time_major: inputs, masks and outputs have time as the first axis.
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
    def step_cell(self) -> Any:
        """Returns what has the cell's `initialize_carry` and `num_feature_axes`."""
        raise NotImplementedError

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, Any]:
        """Runs the cell over a sequence: `(outputs, state)`."""
        raise NotImplementedError

    def mirrored(self, rngs: nnx.Rngs) -> "Layer":
        """Returns a layer like this one with new weights, that goes the other way."""
        raise NotImplementedError

    @by_keyword
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: Any = None,
        initial_state: Any = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
    ) -> Any:
        """Runs the layer over a sequence.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
                Without one, `[t, f]` is one sequence, as in Flax: a forgotten axis looks the same.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                state and the output stay what they were.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step.
            reset_state: of the cell, with `reset`; None is `initial_state`, or the cell's own
                initial state where a stateful layer carries its state on.
            initial_state: of the cell, `[..., u]` for a GRU, or a tuple or list of it; None is the
                stored state of a stateful layer, else the cell's own initial state.
            deterministic: whether dropout is off; None is the cell's attribute.
            rngs: stream "dropout", or the key itself; None is the stream kept.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and each of the states.

        Raises:
            TypeError: `deterministic` is traced or no bool, `seq_lengths` are not integers,
                `inputs` are token ids, or something else than `inputs` came by position.
            ValueError: a shape does not fit, or the batch size of a stateful layer changed; the
                message names the argument.
        """
        return self.call(
            inputs,
            initial_state,
            zero_output_for_mask=self.zero_output_for_mask,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            deterministic=deterministic,
            rngs=rngs,
        )

    def call(self, inputs: ArrayLike, initial_state: Any, **options: Any) -> Any:
        """Does what `__call__` does, with `zero_output_for_mask` among the options."""
        zeros = stored = None
        if self.stateful:
            zeros = self._zeros(inputs)
            stored = load_state(self, zeros)
        outputs, state = run_sequence(
            self, self.sequence, inputs, initial_state, stored, zeros, **options
        )
        if self.stateful:
            store_state(self, state)
        result = (outputs, *as_tuple(state)) if self.return_state else outputs
        sow_activity_loss(self, result)
        return result

    def init_state(self, input_shape: tuple[int, ...]) -> None:
        """Makes the state of a stateful layer before its first call.

        Transformations that take a module apart and know its structure from the start, such as
        `nnx.scan`, need it.

        Args:
            input_shape: of the inputs of a call, `(..., t, f)`, or `(t, ..., f)` with `time_major`.

        Raises:
            AttributeError: the layer is not stateful.
        """
        if not self.stateful:
            raise AttributeError(f"Layer must be stateful, got stateful={self.stateful}.")
        store_state(self, self._zeros(jax.ShapeDtypeStruct(tuple(input_shape), "float32")))

    def reset_states(self, states: Any = None) -> None:
        """Resets the stored state, see `gruflax.nnx.reset_states`."""
        reset_states(self, states)

    def _zeros(self, inputs: Any) -> Any:
        cell = self.step_cell
        shape = step_shape(inputs, cell.num_feature_axes, self.time_major)
        return initial_carry(cell, shape)


def initial_carry(cell: Any, input_shape: tuple[int, ...]) -> Any:
    """Returns a cell's own initial state for steps of a shape."""
    # Flax' cells begin with zeros unless told otherwise; nnx.RNN uses this stream too.
    return cell.initialize_carry(input_shape, nnx.RngStream(0, tag="carry"))


def rebuilt(module: Any, rngs: nnx.Rngs, **changes: Any) -> Any:
    """Makes a module of the same arguments, but for the changes, with new weights."""
    names = [field.name for field in dataclasses.fields(module) if field.init]
    arguments = {name: getattr(module, name) for name in names} | changes
    return type(module)(**arguments, rngs=rngs)
