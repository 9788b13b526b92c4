"""Any NNX cell over a sequence, with the masks and resets of a GRU."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike

from gruflax.functional.sharding import mesh_of
from gruflax.layers.any_cell import (
    Output,
    Steps,
    at_step,
    loop_cell,
    step_shape,
    taken_options,
)
from gruflax.layers.protocols import State
from gruflax.nnx.layer import initial_carry


def cell_sequence(
    cell: Any,
    inputs: ArrayLike,
    *,
    deterministic: bool | None = None,
    rngs: Any = None,
    time_major: bool = False,
    unroll: bool = False,
    **options: Any,
) -> tuple[Output, State]:
    """Runs a cell over a sequence: `gruflax.functional.gru_sequence` for cells of any kind."""
    call = taken_options(cell, deterministic=deterministic, rngs=rngs)
    modules = {"cell": cell}
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
            initial_carry(cell, step_shape(inputs, cell.num_feature_axes, time_major)),
            cell.num_feature_axes,
            nnx.state(modules),
            time_major=time_major,
            **options,
        )


def _scan(
    one_step: Any, modules: dict[str, Any], carry: State, steps: Steps, unroll: bool
) -> tuple[State, Any]:
    """Scans `(modules, carry, now) -> (carry, output)` over steps `[t, ...]`: `(carry, outputs)`.

    The parameters stay, other variables are carried and updated. The streams that dropout masks are
    drawn from, kept by gruflax's cells or given to the call, are at every step where they were at
    the first one, so that all steps have the same masks.
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


def _is_held(path: tuple[Any, ...], variable: Any) -> bool:
    # The path of a stream among others has its name; one that is given alone is for dropout.
    tag = getattr(variable, "tag", None)
    given = path[0] == "rngs" and (len(path) == 2 or tag in ("dropout", "default"))
    return isinstance(variable, nnx.RngCount) and (given or "dropout_stream" in path)
