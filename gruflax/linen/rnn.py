"""Keras' RNN and StackedRNNCells: any Flax cell over a sequence."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from flax.core.scope import CollectionFilter, LazyRng, PRNGSequenceFilter, in_filter
from flax.typing import InOutScanAxis
from jax.typing import ArrayLike

from gruflax.functional.params import check_size
from gruflax.functional.sharding import mesh_of
from gruflax.layers.cell_loop import Output, loop_cell
from gruflax.layers.fields import ROLES, Identifier, check_kind
from gruflax.layers.nesting import State, as_tuple
from gruflax.layers.stacking import (
    CellSequence,
    check_cells,
    run_stacked_cells,
    step_cells,
    steps_as,
    taken_options,
)
from gruflax.linen.config import keras_class
from gruflax.linen.gru import STEP_STREAM, GRUCell
from gruflax.linen.layer import Layer, Module, initial_carry
from gruflax.linen.training import PROBE, sow_weight_losses


# What cells sow and nn.scan drops where it is not named, as in flax.linen.RNN.
_SOWN = ("intermediates", "losses", "perturbations")
# Which streams give another key at every step, unless a layer says otherwise.
_SPLIT: Mapping[PRNGSequenceFilter, bool] = {"params": False, "dropout": False, STEP_STREAM: True}


class Lifting(NamedTuple):
    """What `nn.scan` does with a cell's variables that are no parameters, see `gruflax.RNN`."""

    variable_axes: Mapping[CollectionFilter, InOutScanAxis] = {}
    variable_carry: CollectionFilter = False
    split_rngs: Mapping[str, bool] = {}

    def carried(self, cell: nn.Module) -> tuple[CollectionFilter, list[str]]:
        """Returns what goes from step to step, and what would but may not be written."""
        names = [name for name in cell.variables if in_filter(self.variable_carry, name)]
        fixed = [name for name in names if not cell.is_mutable_collection(name)]
        if not fixed:
            return self.variable_carry, []
        return [name for name in names if name not in fixed], fixed

    def check(self, collections: set[str]) -> None:
        """Raises a ValueError unless it says of each collection of a cell how it is lifted."""
        carried = functools.partial(in_filter, self.variable_carry)
        missing = {
            name for name in collections - {"params", *self.variable_axes} if not carried(name)
        }
        if missing:
            raise ValueError(
                f"the RNN's cell has variables in {sorted(missing)}: name each collection in "
                "variable_carry, if it goes from step to step, or in variable_axes, as in "
                "flax.linen.RNN."
            )


def cell_sequence(
    cell: nn.RNNCellBase,
    inputs: ArrayLike,
    *,
    training: bool = False,
    time_major: bool = False,
    unroll: bool = False,
    lifting: Lifting = Lifting(),
    **options: Any,
) -> tuple[Output, State]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind.

    The "dropout" stream gives the same key at every step unless `lifting` splits it.
    """
    call = taken_options(cell, training=training)

    def loop(body, carry, steps):
        def one_step(cell, carry, now):
            return body(functools.partial(cell, **call), carry, now)

        time = steps.inputs.shape[0]
        if cell.is_initializing() and lifting.variable_carry and time:
            # nn.scan carries what is there before it begins.
            one_step(cell, carry, jax.tree.map(lambda each: each[0], steps))
        carried, fixed = lifting.carried(cell)
        # A Python loop would count the calls, and draw other dropout masks at every step.
        scan = nn.scan(
            one_step,
            variable_axes=lifting.variable_axes,
            variable_broadcast=["params", *fixed],
            variable_carry=carried,
            split_rngs={**_SPLIT, **lifting.split_rngs},
            unroll=max(1, time) if unroll else 1,
        )
        return scan(cell, carry, steps)

    def abstract_step(state, x):
        streams = dict.fromkeys(("params", "dropout", *lifting.split_rngs), jax.random.key(0))
        result, variables = cell.clone(parent=None, name=PROBE).init_with_output(
            streams, state, x, **call, mutable=nn.DenyList(_SOWN)
        )
        lifting.check(set(variables))
        return result

    with mesh_of(inputs), _step_stream(cell):
        result = loop_cell(
            loop,
            abstract_step,
            inputs,
            initial_carry(cell, np.shape(inputs), time_major),
            cell.num_feature_axes,
            cell.variables,
            time_major=time_major,
            **options,
        )
    if all(hasattr(cell, f"{role}_regularizer") for role in ROLES.values()):
        # What a GRU cell with a step of its own sows within the loop is lost there.
        params = cell.variables.get("params", {})
        sow_weight_losses(cell, {name: params[name] for name in ROLES if name in params})
    return result


@contextlib.contextmanager
def _step_stream(cell: nn.Module) -> Iterator[None]:
    """Gives a cell a stream that `nn.scan` splits, so that it can tell one step from another.

    Zoneout needs it where the "dropout" stream is the same at every step. Flax adds streams at the
    root of a model only, and a user would have to know of this one there.
    """
    scope = cell.scope
    assert scope is not None
    streams = scope.rngs
    scope.rngs = {**streams, STEP_STREAM: LazyRng.create(jax.random.key(0))}
    scope.rng_counters.setdefault(STEP_STREAM, 0)
    try:
        yield
    finally:
        scope.rngs = streams


@keras_class
class StackedRNNCells(Module, nn.RNNCellBase):
    """Cells on top of each other that are one cell: Keras' `StackedRNNCells` for Flax's cells.

    The state is a tuple of the cells' states. `gruflax.RNN` runs it cell by cell over the whole
    sequence, `gruflax.GRUCell`s by their fast loop. The cells' parameters are under `cells_0`,
    `cells_1`, ...

    Attributes:
        cells: the cells, `gruflax.GRUCell`s or any other `flax.linen.RNNCellBase`.
        name: of the module, as in Flax.

    Source: Keras 3's `StackedRNNCells`.
    """

    cells: Sequence[nn.RNNCellBase]

    def __post_init__(self):
        check_cells(self.cells, _check_cell)
        self.cells = tuple(self.cells)
        super().__post_init__()

    def __call__(
        self, states: tuple | list, inputs: ArrayLike, training: bool = False
    ) -> tuple[State, jax.Array]:
        """Takes one step.

        Args:
            states: a tuple or list of the cells' states.
            inputs: `[..., f]`.
            training: whether to apply dropout, False by default.

        Returns:
            `(states, output)`, the states nested as they were given.

        Raises:
            ValueError: there is not one state for each cell.
        """
        steps = [
            functools.partial(cell, **taken_options(cell, training=training)) for cell in self.cells
        ]
        return step_cells(steps, "states", states, inputs)

    def sequence(
        self,
        inputs: ArrayLike,
        *,
        time_major: bool = False,
        lifting: Lifting = Lifting(),
        **options: Any,
    ) -> tuple[Output, tuple]:
        """Runs the cells over a sequence, one after the other: `(outputs, states)`."""
        return run_stacked_cells(
            [sequence_of(cell, lifting) for cell in self.cells],
            initial_carry(self, np.shape(inputs), time_major),
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
        keys: list[Any] = [None] * count if rng is None else list(jax.random.split(rng, count))
        return tuple(
            cell.initialize_carry(key, input_shape)
            for key, cell in zip(keys, self.cells, strict=True)
        )

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the states before the first step, for Keras: a tuple of the cells' states."""
        return _initial_state(self, batch_size)

    @property
    def num_feature_axes(self) -> int:
        """Returns how many axes of an input step are features."""
        return self.cells[0].num_feature_axes


@keras_class
class RNN(Layer):
    """Runs a cell over a sequence: Keras' `RNN` for Flax's cells.

    A `gruflax.GRUCell` takes the same fast loop as `gruflax.GRU`; any other
    `flax.linen.RNNCellBase`, with one state or several, goes through `nn.scan`. The cell's
    parameters are under `cell`.

    Attributes:
        cell: the cell, or a list of cells that are stacked, see `StackedRNNCells`.
        return_sequences: returns the output of every step instead of the last one. Default False.
        return_state: returns the state too. Default False.
        go_backwards: processes the last step first; outputs come in the order of processing.
            Default False.
        stateful: begins with the state that the last call left in the collection
            "recurrent_state". Default False.
        unroll: a Python loop instead of a scan. Default False.
        zero_output_for_mask: outputs are zeros, instead of the last output, at masked steps.
            Default False.
        activity_regularizer: a Keras name, config dict, or `f(output) -> loss`. Default None.
        time_major: inputs, masks and outputs have time as the first axis. Default False.
        variable_axes: of a cell that has variables besides parameters: the collections that have
            values of their own at every step, and the axis of the steps, as in `flax.linen.RNN`.
            Default {}.
        variable_carry: the collections whose values go from step to step, such as "batch_stats".
            Default False, which is none.
        split_rngs: the random streams that the cell draws from, True for those that give another
            key at every step. "dropout" gives the same key at every step unless it is here.
            Default {}.
        name: of the module, as in Flax.

    Source: Keras 3's `RNN`.
    """

    cell: nn.RNNCellBase | Sequence[nn.RNNCellBase]
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False
    activity_regularizer: Identifier = None
    time_major: bool = False
    variable_axes: Mapping[CollectionFilter, InOutScanAxis] = FrozenDict()
    variable_carry: CollectionFilter = False
    split_rngs: Mapping[str, bool] = FrozenDict()

    def __post_init__(self):
        if isinstance(self.cell, (tuple, list)):
            self.cell = StackedRNNCells(self.cell)
        _check_cell("cell", self.cell)
        super().__post_init__()

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the cell over a sequence: `(outputs, state)`."""
        lifting = Lifting(self.variable_axes, self.variable_carry, self.split_rngs)
        return sequence_of(self.step_cell, lifting)(inputs, **options)

    def own_state(self, input_shape: tuple[int, ...]) -> State:
        """Returns the state that the cell begins with by itself."""
        return initial_carry(self.step_cell, input_shape, self.time_major)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the state before the first step: a tuple of arrays `[batch_size, u]`."""
        return as_tuple(_initial_state(self.step_cell, batch_size))

    @property
    def step_cell(self) -> nn.RNNCellBase:
        """Returns the cell: one, be it several that are stacked."""
        assert isinstance(self.cell, nn.RNNCellBase)
        return self.cell


def _initial_state(cell: nn.RNNCellBase, batch_size: int) -> State:
    """Returns a cell's state before the first step, for a batch size."""
    check_size("batch_size", batch_size)
    shape = (batch_size, *(1,) * cell.num_feature_axes)
    return cell.initialize_carry(jax.random.key(0), shape)


def _check_cell(name: str, cell: object) -> None:
    """Raises a TypeError unless `cell` is one of Flax's linen cells."""
    wanted = "a flax.linen.RNNCellBase, such as gruflax.GRUCell, or for an RNN a list of them"
    remedy = ": a layer has its loop already" if hasattr(cell, "return_sequences") else ""
    check_kind(name, cell, isinstance(cell, nn.RNNCellBase), wanted, nn.Module, remedy)


def sequence_of(cell: nn.RNNCellBase, lifting: Lifting = Lifting()) -> CellSequence:
    """Finds the function that runs a cell over a sequence: its own, or the one for any cell."""
    if isinstance(cell, GRUCell) and steps_as(cell, GRUCell):
        return cell.sequence
    if isinstance(cell, StackedRNNCells) and steps_as(cell, StackedRNNCells):
        return functools.partial(cell.sequence, lifting=lifting)
    return functools.partial(cell_sequence, cell, lifting=lifting)
