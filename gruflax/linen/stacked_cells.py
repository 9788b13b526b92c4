"""Keras' StackedRNNCells, and which function runs a cell over a sequence."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.functional.params import check_size
from gruflax.layers import stacks
from gruflax.layers.any_cell import Output, run_stacked, taken_options
from gruflax.layers.calls import other_system
from gruflax.layers.protocols import State
from gruflax.linen.cell import GRUCell
from gruflax.linen.cell_sequence import Lifting, cell_sequence, initial_carry
from gruflax.linen.serialization import Configurable


class StackedRNNCells(Configurable, nn.RNNCellBase):
    """Cells on top of each other that are one cell: Keras' `StackedRNNCells` for Flax's cells.

    The state is a tuple of the cells' states. `gruflax.RNN` runs it cell by cell over the whole
    sequence, `gruflax.GRUCell`s by their fast loop. The cells' parameters are under `cells_0`,
    `cells_1`, ...

    Attributes:
        cells: the cells, `gruflax.GRUCell`s or any other `flax.linen.RNNCellBase`.

    Source: Keras 3's `StackedRNNCells`.
    """

    cells: Sequence[nn.RNNCellBase]

    def __post_init__(self):
        stacks.check_cells(self.cells, check_cell)
        self.cells = tuple(self.cells)
        super().__post_init__()

    def __call__(
        self, states: tuple | list, inputs: ArrayLike, training: bool = False
    ) -> tuple[State, jax.Array]:
        """Takes one step: `(states, output)`, the states a tuple or list of the cells' states.

        Raises:
            ValueError: there is not one state for each cell.
        """
        steps = [
            functools.partial(cell, **taken_options(cell, training=training)) for cell in self.cells
        ]
        return stacks.step_cells(steps, "states", states, inputs)

    def sequence(
        self,
        inputs: ArrayLike,
        *,
        time_major: bool = False,
        lifting: Lifting = Lifting(),
        **options: Any,
    ) -> tuple[Output, tuple]:
        """Runs the cells over a sequence, one after the other: `(outputs, states)`."""
        return run_stacked(
            [sequence_of(cell, lifting) for cell in self.cells],
            initial_carry(self, inputs, time_major),
            inputs,
            self.num_feature_axes,
            time_major=time_major,
            **options,
        )

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> tuple:
        """Returns the states before the first step, a tuple, for steps of `(..., *features)`."""
        count = len(self.cells)
        # Cells that begin with zeros need no key.
        keys: Any = [None] * count if rng is None else jax.random.split(rng, count)
        return tuple(
            cell.initialize_carry(key, input_shape)
            for key, cell in zip(keys, self.cells, strict=True)
        )

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the states before the first step, for Keras: a tuple of the cells' states."""
        check_size("batch_size", batch_size)
        features = (1,) * self.num_feature_axes
        return self.initialize_carry(jax.random.key(0), (batch_size, *features))

    @property
    def num_feature_axes(self) -> int:
        """Returns how many axes of an input step are features."""
        return self.cells[0].num_feature_axes


def check_cell(name: str, cell: Any) -> None:
    """Raises a TypeError unless `cell` is one of Flax's linen cells."""
    if not isinstance(cell, nn.RNNCellBase):
        layer = hasattr(cell, "return_sequences")
        remedy = ": a layer has its loop already" if layer else other_system(cell, GRUCell)
        raise TypeError(
            f"{name} must be a flax.linen.RNNCellBase, such as gruflax.GRUCell, or for an RNN a "
            f"list of them, got {brief(cell)}{remedy}."
        )


def sequence_of(
    cell: nn.RNNCellBase, lifting: Lifting = Lifting()
) -> Callable[..., tuple[Output, State]]:
    """Finds the function that runs a cell over a sequence: its own, or the one for any cell."""
    if stacks.steps_as(cell, GRUCell):
        return cell.sequence
    if stacks.steps_as(cell, StackedRNNCells):
        return functools.partial(cell.sequence, lifting=lifting)
    return functools.partial(cell_sequence, cell, lifting=lifting)
