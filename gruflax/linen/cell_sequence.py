"""Any Flax RNN cell over a sequence, with the masks and resets of a GRU."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import in_filter
from jax.typing import ArrayLike

from gruflax.functional.sharding import mesh_of
from gruflax.layers.any_cell import Output, at_step, loop_cell, step_shape, taken_options
from gruflax.layers.fields import ROLES
from gruflax.layers.protocols import State
from gruflax.linen.module import noted_constraints
from gruflax.linen.parameters import sow_weight_losses


# What cells sow and nn.scan drops where it is not named, as in flax.linen.RNN.
_SOWN = ("intermediates", "losses", "perturbations")


class Lifting(NamedTuple):
    """What `nn.scan` does with a cell's variables that are no parameters, see `gruflax.RNN`."""

    variable_axes: Mapping[Any, Any] = {}
    variable_carry: Any = False
    split_rngs: Mapping[str, bool] = {}

    def carried(self, cell: nn.Module) -> tuple[Any, list[str]]:
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


def initial_carry(cell: nn.RNNCellBase, inputs: ArrayLike, time_major: bool) -> State:
    """Returns a cell's state before the first step of `inputs`."""
    # Flax's cells begin with zeros unless told otherwise; nn.RNN uses this key too.
    shape = step_shape(inputs, cell.num_feature_axes, time_major)
    return cell.initialize_carry(jax.random.key(0), shape)


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

    The "dropout" stream gives the same key at every step unless `lifting` splits it; zoneout makes
    another one of it.
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
        # A Python loop would count the calls, and draw other dropout masks at every step.
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
        alone = cell.clone(parent=None, name=None)
        # What a copy without a place in the model declares is nobody's.
        with noted_constraints():
            result, variables = alone.init_with_output(
                streams, state, x, **call, mutable=nn.DenyList(_SOWN)
            )
        lifting.check(set(variables))
        return result

    with mesh_of(inputs):
        result = loop_cell(
            loop,
            abstract_step,
            inputs,
            initial_carry(cell, inputs, time_major),
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
