"""Keras' RNN and StackedRNNCells as NNX modules, which run any Flax cell."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from gruflax.functional.checks import PyTree
from gruflax.functional.sharding import mesh_of
from gruflax.layers.cell_loop import Output, Steps, at_step, loop_cell
from gruflax.layers.fields import check_kind, settle_layer_fields
from gruflax.layers.nesting import State
from gruflax.layers.stacking import (
    CellSequence,
    check_cells,
    run_stacked_cells,
    step_cells,
    steps_as,
    taken_options,
)
from gruflax.nnx.gru import GRUCell
from gruflax.nnx.layer import Layer, Streams, initial_carry, rebuilt, split_streams


def cell_sequence(
    cell: nnx.RNNCellBase,
    inputs: ArrayLike,
    *,
    deterministic: bool | None = None,
    rngs: Streams | None = None,
    time_major: bool = False,
    unroll: bool = False,
    **options: Any,
) -> tuple[Output, State]:
    """Runs a cell of any kind over a sequence: `(outputs, state)`."""
    call = taken_options(cell, deterministic=deterministic, rngs=rngs)
    modules: dict[str, PyTree] = {"cell": cell}
    if isinstance(call.get("rngs"), (nnx.Rngs, nnx.RngStream)):
        modules["rngs"] = call.pop("rngs")

    def step(modules, state, x):
        cell, *rngs = modules.values()
        return cell(state, x, **call, **({"rngs": rngs[0]} if rngs else {}))

    def loop(body, carry, steps):
        def one_step(modules, carry, now):
            return body(functools.partial(step, modules), carry, now)

        return _scan(one_step, modules, carry, steps, unroll)

    def abstract_step(state, x):
        return step(nnx.clone(modules), state, x)

    with mesh_of(inputs):
        return loop_cell(
            loop,
            abstract_step,
            inputs,
            initial_carry(cell, np.shape(inputs), time_major),
            cell.num_feature_axes,
            nnx.state(modules),
            time_major=time_major,
            **options,
        )


def _scan(
    one_step: Callable[..., tuple[State, Output]],
    modules: dict[str, PyTree],
    carry: State,
    steps: Steps,
    unroll: bool,
) -> tuple[State, Output]:
    """Scans `(modules, carry, now) -> (carry, output)` over steps `[t, ...]`: `(carry, outputs)`.

    Parameters are constant; other variables are carried from step to step. The counters of the
    dropout streams, those that gruflax's cells keep or those given to the call, are set back at
    every step, so that all steps draw the same masks.
    """
    graphdef, params, streams, rest = nnx.split(modules, nnx.Param, _is_held, ...)

    def body(carry, now):
        (index, now), (_, rest, carry) = now, carry
        merged = nnx.merge(graphdef, params, streams, rest, copy=True)
        with at_step(index):
            carry, output = one_step(merged, carry, now)
        _, _, moved, rest = nnx.split(merged, nnx.Param, _is_held, ...)
        return (moved, rest, carry), output

    time = steps.inputs.shape[0]
    (moved, rest, carry), outputs = lax.scan(
        body,
        (streams, rest, carry),
        (jnp.arange(time), steps),
        unroll=max(1, time) if unroll else 1,
    )
    nnx.update(modules, moved, rest)
    return carry, outputs


def _is_held(path: tuple[object, ...], variable: object) -> bool:
    # A stream of an nnx.Rngs has a longer path and a tag; a single given stream is for dropout.
    tag = getattr(variable, "tag", None)
    given = path[0] == "rngs" and (len(path) == 2 or tag in ("dropout", "default"))
    return isinstance(variable, nnx.RngCount) and (given or "dropout_stream" in path)


class StackedRNNCells(nnx.RNNCellBase):
    """Several cells in a row as one cell: Keras' `StackedRNNCells` for NNX cells.

    For example::

        cell = gruflax.nnx.StackedRNNCells([GRUCell(4, 8, rngs=rngs), GRUCell(8, 8, rngs=rngs)])

    The state is a tuple of the cells' states. `gruflax.nnx.RNN` runs cell after cell over the whole
    sequence. The cells are the attributes `cells_0`, `cells_1`, ...

    Args:
        cells: a list of `gruflax.nnx.GRUCell`s or other cells that `RNN` takes.

    Raises:
        TypeError: `cells` is not a list of cells.

    Source: Keras 3's `StackedRNNCells`.
    """

    def __init__(self, cells: Sequence[nnx.Module]):
        check_cells(cells, _check_cell)
        for index, cell in enumerate(cells):
            setattr(self, f"cells_{index}", cell)
        self.count = len(cells)

    @property
    def cells(self) -> tuple[Any, ...]:
        """Returns the cells, the lowest first."""
        return tuple(getattr(self, f"cells_{index}") for index in range(self.count))

    @property
    def num_feature_axes(self) -> int:
        """Returns how many axes of an input step are features."""
        return self.cells[0].num_feature_axes

    def __call__(
        self,
        carry: tuple | list,
        inputs: ArrayLike,
        *,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
    ) -> tuple[State, Output]:
        """Takes one step.

        Args:
            carry: a tuple or list of the cells' states.
            inputs: `[..., f]`.
            deterministic: whether dropout is off. None: as the attribute of each cell says.
            rngs: a stream "dropout", or a key. None: the stream that each cell keeps.

        Returns:
            `(carry, output)`, the states nested as they were given.

        Raises:
            ValueError: there is not one state for each cell.
        """
        streams = split_streams(rngs, self.count)
        steps = [
            functools.partial(cell, **taken_options(cell, deterministic=deterministic, rngs=own))
            for cell, own in zip(self.cells, streams, strict=True)
        ]
        return step_cells(steps, "carry", carry, inputs)

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: object = None, carry_init: object = None
    ) -> tuple:
        """Returns the states before the first step, a tuple, for steps of `(..., *features)`."""
        given = () if carry_init is None else (carry_init,)
        return tuple(cell.initialize_carry(input_shape, rngs, *given) for cell in self.cells)

    def sequence(
        self,
        inputs: ArrayLike,
        *,
        time_major: bool = False,
        rngs: Streams | None = None,
        **options: Any,
    ) -> tuple[Output, tuple]:
        """Runs the cells over a sequence, one after the other: `(outputs, states)`."""
        streams = split_streams(rngs, self.count)
        return run_stacked_cells(
            [
                functools.partial(sequence_of(cell), rngs=own)
                for cell, own in zip(self.cells, streams, strict=True)
            ],
            initial_carry(self, np.shape(inputs), time_major),
            inputs,
            self.num_feature_axes,
            time_major=time_major,
            **options,
        )


class RNN(Layer):
    """Runs a cell over a sequence: Keras' `RNN` for Flax's NNX cells.

    For example::

        rnn = gruflax.nnx.RNN(nnx.LSTMCell(4, 8, rngs=rngs), return_sequences=True)
        outputs = rnn(inputs, seq_lengths=lengths)

    A `gruflax.nnx.GRUCell` is run by the loops of `gruflax.nnx.GRU`; any other
    `flax.nnx.RNNCellBase`, or a module with its methods `initialize_carry` and `num_feature_axes`,
    by `lax.scan`. It may have one state or several. Its parameters are the same at every step; its
    other variables are carried from step to step.

    Args:
        cell: the cell, or a list of cells that are stacked, see `StackedRNNCells`.
        return_sequences: whether to return the outputs of all steps, or only the last output.
            Default False.
        return_state: whether to return the last state too. Default False.
        go_backwards: whether to process the last step first; the outputs are in the order of
            processing. Default False.
        stateful: whether a call begins with the state that the previous call stored in the
            attribute `h`, a `RecurrentState`; the first call or `init_state` makes it. Default
            False.
        unroll: whether to unroll the loop over the steps. Default False.
        zero_output_for_mask: whether outputs at masked steps are zeros instead of the last output.
            Default False.
        activity_regularizer: regularizer of each output and state that is returned: a Keras name, a
            config dict, or a function `f(output) -> loss`; `nnx.capture` collects the loss as a
            `gruflax.nnx.ActivityLoss`. Default None.
        time_major: whether time is the first axis of inputs, masks and outputs. Default False.

    Raises:
        TypeError: `cell` is neither a cell nor a list of cells.

    Source: Keras 3's `RNN`.
    """

    def __init__(self, cell: nnx.Module | Sequence[nnx.Module], **options: Any):
        super().__init__(**options)
        if isinstance(cell, (tuple, list)):
            cell = StackedRNNCells(cell)
        _check_cell("cell", cell)
        self.cell: Any = cell
        settle_layer_fields(self)

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the cell over a sequence: `(outputs, state)`."""
        return sequence_of(self.cell)(inputs, **options)

    def own_state(self, input_shape: tuple[int, ...]) -> State:
        """Returns the initial state that the cell chooses for inputs of a shape."""
        return initial_carry(self.cell, input_shape, self.time_major)

    def mirrored(self, rngs: nnx.Rngs) -> Self:
        """Returns a layer of the same arguments with new weights and the opposite direction.

        Raises:
            ValueError: the cell is not one of gruflax, so that its arguments are unknown.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["go_backwards"] = not self.go_backwards
        return type(self)(_rebuilt(self.cell, rngs), **fields)


def _rebuilt(cell: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    """Makes a cell of the same arguments with new weights."""
    if isinstance(cell, StackedRNNCells):
        return type(cell)([_rebuilt(each, rngs) for each in cell.cells])
    if isinstance(cell, GRUCell):
        return rebuilt(cell, rngs)
    raise ValueError(f"backward_layer must be given for a cell of type {type(cell).__name__}.")


def _check_cell(name: str, cell: object) -> None:
    """Raises a TypeError unless `cell` is an NNX module that `flax.nnx.RNN` takes as a cell."""
    layer = hasattr(cell, "return_sequences")
    methods = ("initialize_carry", "num_feature_axes")
    fits = isinstance(cell, nnx.Module) and all(hasattr(cell, each) for each in methods)
    wanted = (
        "a flax.nnx.RNNCellBase, such as gruflax.nnx.GRUCell, or a module with its methods "
        f"{' and '.join(methods)}, or for an RNN a list of them"
    )
    remedy = ": a layer has its loop already" if layer else ""
    check_kind(name, cell, fits and not layer, wanted, nnx.Module, remedy)


def sequence_of(cell: Any) -> CellSequence:
    """Returns the function that runs a cell over a sequence: its method, or `cell_sequence`."""
    own = any(steps_as(cell, cls) for cls in (GRUCell, StackedRNNCells))
    return cell.sequence if own else functools.partial(cell_sequence, cell)
