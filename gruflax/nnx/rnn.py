"""Keras' RNN layer: any NNX cell over a sequence."""

import dataclasses
import functools
import inspect
from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from gruflax.functional.loops import Steps
from gruflax.named.sequences import loop_cell, step_shape, unrolled
from gruflax.nnx.cell import GRUCell
from gruflax.nnx.layer import Layer, initial_carry, rebuilt


@dataclasses.dataclass(eq=False, repr=False)
class RNN(Layer):
    """Runs a cell over a sequence: Keras' `RNN` for Flax' NNX cells.

        rnn = gruflax.nnx.RNN(nnx.LSTMCell(4, 8, rngs=rngs), return_sequences=True)
        outputs = rnn(inputs, seq_lengths=lengths)

    A `gruflax.nnx.GRUCell` takes the same fast loop as `gruflax.nnx.GRU`; any other
    `flax.nnx.RNNCellBase`, with one state or several, goes through `lax.scan`, its parameters the
    same at every step and its other variables carried from step to step. Arguments: those of
    `Layer`, and this.

    Attributes:
        cell: the cell.

    Raises:
        TypeError: `cell` is no cell.

    Source: Keras 3's `RNN`.
    """

    cell: nnx.RNNCellBase

    def __post_init__(self):
        if not isinstance(self.cell, nnx.RNNCellBase):
            raise TypeError(f"cell must be a flax.nnx.RNNCellBase, got {self.cell!r}.")
        super().__post_init__()

    @property
    def step_cell(self) -> nnx.RNNCellBase:
        """Returns the cell."""
        return self.cell

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, Any]:
        """Runs the cell over a sequence: a GRUCell's own way, or the one for any cell."""
        cell = self.cell
        if isinstance(cell, GRUCell) and type(cell).__call__ is GRUCell.__call__:
            return cell.sequence(inputs, **options)
        return cell_sequence(cell, inputs, **options)

    def mirrored(self, rngs: nnx.Rngs) -> "RNN":
        """Returns a layer like this one with new weights, that goes the other way.

        Raises:
            ValueError: the cell is not gruflax's: it does not tell its arguments.
        """
        if not isinstance(self.cell, GRUCell):
            raise ValueError(
                f"backward_layer must be given for a cell of type {type(self.cell).__name__}."
            )
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changes = {"cell": rebuilt(self.cell, rngs), "go_backwards": not self.go_backwards}
        return type(self)(**(fields | changes))


def cell_sequence(
    cell: nnx.RNNCellBase,
    inputs: ArrayLike,
    *,
    deterministic: bool | None = None,
    rngs: Any = None,
    time_major: bool = False,
    unroll: bool = False,
    **options: Any,
) -> tuple[jax.Array, Any]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind.

    Args:
        cell: `cell(state, x) -> (state, output)`.
        inputs: `[..., t, *features]`, or `[t, ..., *features]` with `time_major`.
        deterministic: handed to cells whose call takes it.
        rngs: the same.
        time_major: time comes first.
        unroll: a Python loop instead of `lax.scan`.
        **options: of `gruflax.named.sequences.loop_cell`.

    Returns:
        `(outputs, state)`.

    Raises:
        ValueError: a shape does not fit; the message names the argument.
    """
    taken = inspect.signature(type(cell).__call__).parameters
    call = {"deterministic": deterministic, "rngs": rngs}
    call = {name: value for name, value in call.items() if name in taken}

    def loop(body, carry, steps):
        def one_step(cell, carry, now):
            return body(functools.partial(cell, **call), carry, now)

        if unroll:
            return unrolled(functools.partial(one_step, cell), carry, steps)
        return scan_cell(one_step, cell, carry, steps)

    def abstract_step(state, x):
        return nnx.clone(cell)(state, x, **call)

    return loop_cell(
        loop,
        abstract_step,
        inputs,
        initial_carry(cell, step_shape(inputs, cell.num_feature_axes, time_major)),
        cell.num_feature_axes,
        time_major=time_major,
        **options,
    )


def scan_cell(one_step: Any, cell: nnx.RNNCellBase, carry: Any, steps: Steps) -> tuple[Any, Any]:
    """Scans `(cell, carry, now) -> (carry, output)` over the steps.

    Args:
        one_step: of one step.
        cell: its parameters stay, its other variables are carried and updated.
        carry: before the first step.
        steps: `[t, ...]`.

    Returns:
        `(carry, outputs)`.
    """
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)

    def body(carry, now):
        rest, carry = carry
        merged = nnx.merge(graphdef, params, rest)
        carry, output = one_step(merged, carry, now)
        _, _, rest = nnx.split(merged, nnx.Param, ...)
        return (rest, carry), output

    (rest, carry), outputs = lax.scan(body, (rest, carry), steps)
    nnx.update(cell, rest)
    return carry, outputs
