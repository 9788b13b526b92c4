"""Any NNX cell over a sequence, with the masks and resets of a GRU."""

import functools
import inspect
from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from gruflax.layers.any_cell import Steps, loop_cell, step_shape
from gruflax.layers.protocols import State
from gruflax.nnx.layer import initial_carry


def cell_sequence(
    cell: nnx.RNNCellBase,
    inputs: ArrayLike,
    *,
    deterministic: bool | None = None,
    rngs: Any = None,
    time_major: bool = False,
    unroll: bool = False,
    **options: Any,
) -> tuple[jax.Array, State]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind."""
    call = taken_options(cell, deterministic=deterministic, rngs=rngs)

    def loop(body, carry, steps):
        def one_step(cell, carry, now):
            return body(functools.partial(cell, **call), carry, now)

        return scan_cell(one_step, cell, carry, steps, unroll)

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


def scan_cell(
    one_step: Any, cell: nnx.RNNCellBase, carry: State, steps: Steps, unroll: bool
) -> tuple[State, Any]:
    """Scans `(cell, carry, now) -> (carry, output)` over steps `[t, ...]`: `(carry, outputs)`.

    The cell's parameters stay, its other variables are carried and updated.
    """
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)

    def body(carry, now):
        rest, carry = carry
        merged = nnx.merge(graphdef, params, rest)
        carry, output = one_step(merged, carry, now)
        _, _, rest = nnx.split(merged, nnx.Param, ...)
        return (rest, carry), output

    copies = max(1, steps.inputs.shape[0]) if unroll else 1
    (rest, carry), outputs = lax.scan(body, (rest, carry), steps, unroll=copies)
    nnx.update(cell, rest)
    return carry, outputs


def taken_options(cell: nnx.RNNCellBase, **options: Any) -> dict[str, Any]:
    """Returns the options that a cell's call takes."""
    taken = inspect.signature(type(cell).__call__).parameters
    return {name: value for name, value in options.items() if name in taken}
