"""Any Flax RNN cell over a sequence, with the masks and resets of a GRU."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.layers.any_cell import loop_cell, step_shape
from gruflax.layers.fields import ROLES
from gruflax.layers.protocols import State
from gruflax.linen.module import noted_constraints
from gruflax.linen.parameters import at_step, sow_weight_losses


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
    **options: Any,
) -> tuple[jax.Array, State]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind.

    The "dropout" stream gives the same key at every step; zoneout makes another one of it.
    """
    call = taken_options(cell, training)

    def loop(body, carry, steps):
        def one_step(cell, carry, now):
            index, now = now
            with at_step(index):
                return body(functools.partial(cell, **call), carry, now)

        # A Python loop would count the calls, and draw other dropout masks at every step.
        time = steps.inputs.shape[0]
        scan = nn.scan(
            one_step,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": False},
            unroll=max(1, time) if unroll else 1,
        )
        return scan(cell, carry, (jnp.arange(time), steps))

    def abstract_step(state, x):
        key = jax.random.key(0)
        alone = cell.clone(parent=None, name=None)
        # What a copy without a place in the model declares is nobody's.
        with noted_constraints():
            result, _ = alone.init_with_output({"params": key, "dropout": key}, state, x, **call)
        return result

    result = loop_cell(
        loop,
        abstract_step,
        inputs,
        initial_carry(cell, inputs, time_major),
        cell.num_feature_axes,
        time_major=time_major,
        **options,
    )
    if all(hasattr(cell, f"{role}_regularizer") for role in ROLES.values()):
        # What a GRU cell with a step of its own sows within the loop is lost there.
        params = cell.variables.get("params", {})
        sow_weight_losses(cell, {name: params[name] for name in ROLES if name in params})
    return result


def taken_options(cell: nn.RNNCellBase, training: bool) -> dict[str, Any]:
    """Returns `training` for a cell whose call has such an argument, nothing for another."""
    takes = "training" in inspect.signature(type(cell).__call__).parameters
    return {"training": training} if takes else {}
