"""The contestants of one step per call, which feed their state back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gruflax.bench.case import STEP, Case
from gruflax.bench.contestants import (
    GRUFLAX,
    JAX_PEER,
    Peer,
    Program,
    compile_for,
    gruflax_params,
)
from gruflax.functional import gru_cell_step


def _stepping(
    case: Case, step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]], params: Any
) -> Program:
    """Compiles `step(params, state, x) -> (state, output)`, and feeds its state back at each call.

    The first state is zeros `[b, u]`.
    """
    state = jnp.zeros((case.batch, case.units), case.dtype)
    x = jnp.asarray(case.inputs()[:, 0], case.dtype)
    executable = compile_for(case, step, params, state, x)
    params, state, x = executable.arguments

    def run() -> jax.Array:
        nonlocal state
        state, output = executable.call(params, state, x)
        return output.block_until_ready()

    return Program(run, executable.seconds, executable.temp_bytes)


def make_cell_step(case: Case, mode: str) -> Program:
    """Makes a jitted `gruflax.gru_cell_step`."""
    return _stepping(
        case, lambda params, state, x: gru_cell_step(params, state, x), gruflax_params(case)
    )


def make_stateful_layer(case: Case, mode: str) -> Program:
    """Makes a jitted `gruflax.GRU(stateful=True)`, whose state is a Flax collection."""
    from gruflax.linen import GRU

    layer = GRU(case.units, stateful=True, return_sequences=True)

    def step(params: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables = {"params": params, "recurrent_state": {"h": state}}
        run: Any = layer.apply
        outputs, updated = run(variables, x[:, None], mutable=["recurrent_state"])
        return updated["recurrent_state"]["h"], outputs[:, 0]

    return _stepping(case, step, gruflax_params(case))


def make_linen_cell(case: Case, mode: str) -> Program:
    """Makes a jitted `flax.linen.GRUCell`."""
    from flax import linen as nn

    cell = nn.GRUCell(case.units)
    state, x = (jnp.zeros((case.batch, size)) for size in (case.units, case.features))
    params = cell.init(jax.random.key(0), state, x)
    step: Any = cell.apply
    return _stepping(case, step, params)


STEP_PEERS = (
    Peer("gruflax.gru_cell_step", GRUFLAX, make_cell_step, modes=(STEP,)),
    Peer("gruflax.GRU (stateful)", GRUFLAX, make_stateful_layer, modes=(STEP,)),
    Peer("flax.linen.GRUCell", JAX_PEER, make_linen_cell, ("flax",), "flax", modes=(STEP,)),
)
