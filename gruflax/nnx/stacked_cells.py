"""Keras' StackedRNNCells as an NNX module, and which function runs a cell over a sequence."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.layers import stacks
from gruflax.layers.any_cell import Output, run_stacked, step_shape, taken_options
from gruflax.layers.calls import other_system
from gruflax.layers.protocols import State
from gruflax.nnx.cell import GRUCell
from gruflax.nnx.cell_sequence import cell_sequence
from gruflax.nnx.layer import initial_carry
from gruflax.nnx.weights import Streams, each_streams


class StackedRNNCells(nnx.RNNCellBase):
    """Cells on top of each other that are one cell: Keras' `StackedRNNCells` for NNX cells.

        cell = gruflax.nnx.StackedRNNCells([GRUCell(4, 8, rngs=rngs), GRUCell(8, 8, rngs=rngs)])

    As `gruflax.StackedRNNCells`, with the cells as attributes `cells_0`, `cells_1`, ...

    Args:
        cells: `gruflax.nnx.GRUCell`s or any other cells, see `RNN`.

    Raises:
        TypeError: `cells` is no list of cells.
    """

    def __init__(self, cells: Sequence[nnx.Module]):
        stacks.check_cells(cells, check_cell)
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
        """Takes one step: `(carry, output)`, the carry a tuple or list of the cells' states.

        `deterministic` and `rngs` are those of `gruflax.nnx.GRUCell`.

        Raises:
            ValueError: there is not one state for each cell.
        """
        streams = each_streams(rngs, self.count)
        steps = [
            functools.partial(cell, **taken_options(cell, deterministic=deterministic, rngs=own))
            for cell, own in zip(self.cells, streams, strict=True)
        ]
        return stacks.step_cells(steps, "carry", carry, inputs)

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
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
        streams = each_streams(rngs, self.count)
        return run_stacked(
            [
                functools.partial(sequence_of(cell), rngs=own)
                for cell, own in zip(self.cells, streams, strict=True)
            ],
            initial_carry(self, step_shape(inputs, self.num_feature_axes, time_major)),
            inputs,
            self.num_feature_axes,
            time_major=time_major,
            **options,
        )


def check_cell(name: str, cell: Any) -> None:
    """Raises a TypeError unless `cell` is an NNX module that `flax.nnx.RNN` takes as a cell."""
    layer = hasattr(cell, "return_sequences")
    wanted = ("initialize_carry", "num_feature_axes")
    if layer or not isinstance(cell, nnx.Module) or not all(hasattr(cell, each) for each in wanted):
        remedy = ": a layer has its loop already" if layer else other_system(cell, GRUCell)
        raise TypeError(
            f"{name} must be a flax.nnx.RNNCellBase, such as gruflax.nnx.GRUCell, or a module with "
            f"its methods {' and '.join(wanted)}, or for an RNN a list of them, got "
            f"{brief(cell)}{remedy}."
        )


def sequence_of(cell: Any) -> Callable[..., tuple[Output, State]]:
    """Finds the function that runs a cell over a sequence: its own, or the one for any cell."""
    own = any(stacks.steps_as(cell, cls) for cls in (GRUCell, StackedRNNCells))
    return cell.sequence if own else functools.partial(cell_sequence, cell)
