"""Keras' RNN and StackedRNNCells as `flax.linen` modules, which run any Flax cell."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from flax.core.scope import in_filter
from jax.typing import ArrayLike

from gruflax.functional.params import check_size
from gruflax.functional.sharding import mesh_of
from gruflax.layers.cell_loop import Output, at_step, loop_cell
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
from gruflax.linen.gru import GRUCell
from gruflax.linen.layer import Layer, Module, initial_carry
from gruflax.linen.training import PROBE, sow_weight_losses


# Collections that cells sow into; nn.scan drops them where they are not named, as flax.linen.RNN.
_SOWN = ("intermediates", "losses", "perturbations")


class Lifting(NamedTuple):
    """How `nn.scan` treats those variables of a cell that are not parameters, see `gruflax.RNN`."""

    variable_axes: Mapping[Any, Any] = {}
    variable_carry: Any = False
    split_rngs: Mapping[str, bool] = {}

    def carried(self, cell: nn.Module) -> tuple[Any, list[str]]:
        """Returns the collections to carry, and those named to be carried that are not mutable."""
        names = [name for name in cell.variables if in_filter(self.variable_carry, name)]
        fixed = [name for name in names if not cell.is_mutable_collection(name)]
        if not fixed:
            return self.variable_carry, []
        return [name for name in names if name not in fixed], fixed

    def check(self, collections: set[str]) -> None:
        """Raises a ValueError unless each collection of a cell is named in one of the fields."""
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
    """Runs a cell of any kind over a sequence: `(outputs, state)`.

    The "dropout" stream gives the same key at every step unless `lifting` splits it.
    """
    call = taken_options(cell, training=training)

    def loop(body, carry, steps):
        def one_step(cell, carry, now):
            index, now = now
            with at_step(index):
                return body(functools.partial(cell, **call), carry, now)

        time = steps.inputs.shape[0]
        if cell.is_initializing() and lifting.variable_carry and time:
            # nn.scan carries what is there before it begins.
            one_step(cell, carry, jax.tree.map(lambda each: each[0], (jnp.arange(1), steps)))
        carried, fixed = lifting.carried(cell)
        # In a Python loop Flax would count the calls and draw new dropout masks at every step.
        scan = nn.scan(
            one_step,
            variable_axes=lifting.variable_axes,
            variable_broadcast=["params", *fixed],
            variable_carry=carried,
            split_rngs={"params": False, "dropout": False, **lifting.split_rngs},
            unroll=max(1, time) if unroll else 1,
        )
        return scan(cell, carry, (jnp.arange(time), steps))

    def abstract_step(state, x):
        streams = dict.fromkeys(("params", "dropout", *lifting.split_rngs), jax.random.key(0))
        result, variables = cell.clone(parent=None, name=PROBE).init_with_output(
            streams, state, x, **call, mutable=nn.DenyList(_SOWN)
        )
        lifting.check(set(variables))
        return result

    with mesh_of(inputs):
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
        # The losses that a subclass of GRUCell sows in the loop are dropped by nn.scan.
        params = cell.variables.get("params", {})
        sow_weight_losses(cell, {name: params[name] for name in ROLES if name in params})
    return result


@keras_class
class StackedRNNCells(Module, nn.RNNCellBase):
    """Several cells in a row as one cell: Keras' `StackedRNNCells` for Flax's cells.

    The state is a tuple of the cells' states. `gruflax.RNN` runs cell after cell over the whole
    sequence, each `gruflax.GRUCell` by the loops of `gruflax.GRU`. The cells' parameters are under
    `cells_0`, `cells_1`, ...

    Attributes:
        cells: the cells, `gruflax.GRUCell`s or any other `flax.linen.RNNCellBase`.
        name: name of the module, as in Flax. Default None.

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
        # Cells whose initial state is zeros need no key.
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

    A `gruflax.GRUCell` is run by the loops of `gruflax.GRU`; any other `flax.linen.RNNCellBase`,
    with one state or several, by `nn.scan`. The cell's parameters are under `cell`.

    Attributes:
        cell: the cell, or a list of cells that are stacked, see `StackedRNNCells`.
        return_sequences: whether to return the outputs of all steps, or only the last output.
            Default False.
        return_state: whether to return the last state too. Default False.
        go_backwards: whether to process the last step first; the outputs are in the order of
            processing. Default False.
        stateful: whether a call begins with the state that the previous call stored in the
            collection "recurrent_state". Default False.
        unroll: whether to unroll the loop over the steps. Default False.
        zero_output_for_mask: whether outputs at masked steps are zeros instead of the last output.
            Default False.
        activity_regularizer: regularizer of each output and state that is returned: a Keras name, a
            config dict, or a function `f(output) -> loss`; the loss of the whole batch is sown into
            the collection "losses". Default None.
        time_major: whether time is the first axis of inputs, masks and outputs. Default False.
        variable_axes: for a cell with variables besides parameters: a dict from each collection
            that has separate values at every step to the axis of the steps, as in `flax.linen.RNN`.
            Default {}.
        variable_carry: name or names of the collections whose values are carried from step to step,
            such as "batch_stats". Default False, which is none.
        split_rngs: a dict from each random stream that the cell draws from to whether it gives a
            new key at every step. Without an entry "dropout" gives the same key at every step.
            Default {}.
        name: name of the module, as in Flax. Default None.

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
    variable_axes: Mapping[Any, Any] = FrozenDict()
    variable_carry: Any = False
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
        """Returns the initial state that the cell chooses for inputs of a shape."""
        return initial_carry(self.step_cell, input_shape, self.time_major)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple:
        """Returns the state before the first step: a tuple of arrays `[batch_size, u]`."""
        return as_tuple(_initial_state(self.step_cell, batch_size))

    @property
    def step_cell(self) -> nn.RNNCellBase:
        """Returns the cell; for a list of cells, the `StackedRNNCells` made of them."""
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
    """Returns the function that runs a cell over a sequence: its method, or `cell_sequence`."""
    if isinstance(cell, GRUCell) and steps_as(cell, GRUCell):
        return cell.sequence
    if isinstance(cell, StackedRNNCells) and steps_as(cell, StackedRNNCells):
        return functools.partial(cell.sequence, lifting=lifting)
    return functools.partial(cell_sequence, cell, lifting=lifting)
