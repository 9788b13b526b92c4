"""Who is timed on the GPU: gruflax's loops with what can be varied of them, and the others."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import gruflax
from gruflax.bench.case import Case
from gruflax.bench.contestants import Inputs, Program, gruflax_params, jax_program
from gruflax.bench.libraries import LIBRARIES, linen_cell
from gruflax.convert import to_flax_linen
from gruflax.functional.call import Call, make_call
from gruflax.functional.loops.chunked.loop import chunked_loop
from gruflax.functional.loops.cudnn.loop import check_cudnn, cudnn_loop
from gruflax.functional.loops.cudnn.problem import Settings
from gruflax.functional.loops.scan import scan_loop


Make = Callable[[Case, str], Program]
MEMBERS = 8


def call_program(
    run: Callable[[Call], Any], call: dict[str, Any], case: Case, mode: str
) -> Program:
    """Makes the program of a loop with private options."""

    def apply(params: Any, inputs: Inputs) -> jax.Array:
        return run(make_call(params, inputs.x, **call))[0]

    return jax_program(case, mode, apply, gruflax_params(case))


def members(params: Any) -> Any:
    """Makes several sets of parameters, stacked, of one."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf + 0.01 * i for i in range(MEMBERS)]), params)


def member_program(run: Callable[[Call], Any], case: Case, mode: str) -> Program:
    """Makes the program of a loop over vmapped parameters."""

    def apply(params: Any, inputs: Inputs) -> jax.Array:
        return jax.vmap(lambda params: run(make_call(params, inputs.x))[0])(params)

    return jax_program(case, mode, apply, members(gruflax_params(case)))


def checked_cudnn(call: Call, settings: Settings = Settings()) -> Any:
    """Runs a call in cuDNN, or says what keeps it from that."""
    check_cudnn(call, unroll=False)
    return cudnn_loop(call, settings)


def linen_members(case: Case, mode: str) -> Program:
    """Makes `flax.linen.RNN(GRUCell)` over vmapped parameters."""
    from flax import linen as nn

    layer = nn.RNN(linen_cell(case))
    params = {"params": {"cell": to_flax_linen(gruflax_params(case))}}

    def apply(params: Any, inputs: Inputs) -> Any:
        return jax.vmap(lambda params: layer.apply(params, inputs.x))(params)

    return jax_program(case, mode, apply, members(params))


def scanned(
    step: Callable[[Any, jax.Array, jax.Array], Any], params: Any, case: Case, mode: str
) -> Program:
    """Makes the program of a user's own scan over `step(params, state, x) -> (state, output)`."""

    def apply(params: Any, inputs: Inputs) -> jax.Array:
        start = jnp.zeros((case.batch, case.units), inputs.x.dtype)
        body = functools.partial(step, params)
        return jnp.moveaxis(lax.scan(body, start, jnp.moveaxis(inputs.x, 1, 0))[1], 0, 1)

    return jax_program(case, mode, apply, params)


def own_scan(case: Case, mode: str) -> Program:
    """Makes a scan over `gruflax.gru_cell_step`."""
    return scanned(gruflax.gru_cell_step, gruflax_params(case), case, mode)


def linen_own_scan(case: Case, mode: str) -> Program:
    """Makes a scan over `flax.linen.GRUCell`."""
    cell = linen_cell(case)
    return scanned(cell.apply, {"params": to_flax_linen(gruflax_params(case))}, case, mode)


def chunked(chunk: int, unroll: int = 1) -> Make:
    """Returns how the chunked loop is made, with steps per chunk and per turn of its inner loop."""
    call = {"chunk": chunk, "inner_unroll": unroll}
    return functools.partial(call_program, chunked_loop, call)


def cudnn(**settings: Any) -> Make:
    """Returns how the cuDNN loop is made, with settings of cuDNN."""
    run = functools.partial(checked_cudnn, settings=Settings(**settings))
    return functools.partial(call_program, run, {})


# Stage 3.
SPEED: dict[str, Make] = {
    "scan": functools.partial(call_program, scan_loop, {}),
    "chunk 16": chunked(16),
    "chunk 64": chunked(64),
    "chunk 256": chunked(256),
    "64, unroll 4": chunked(64, 4),
    "64, unroll 16": chunked(64, 16),
    "cudnn": cudnn(),
    "linen": LIBRARIES["flax.linen"].make,
    "torch": LIBRARIES["torch"].make,
}
# Stage 4.
VMAPPED: dict[str, Make] = {
    "scan x8": functools.partial(member_program, scan_loop),
    "chunked x8": functools.partial(member_program, chunked_loop),
    "cudnn x8": functools.partial(member_program, checked_cudnn),
    "linen x8": linen_members,
}
STEPS: dict[str, Make] = {"own scan": own_scan, "linen's cell": linen_own_scan}
# Stage 5.
SETTINGS: dict[str, Make] = {
    "standard": cudnn(),
    "packed": cudnn(packed=True),
    "default math": cudnn(math="default"),
    "tensor op": cudnn(math="tensor_op"),
    "static": cudnn(algorithm="persist_static"),
    "small h": cudnn(algorithm="persist_static_small_h"),
    "dynamic": cudnn(algorithm="persist_dynamic"),
    "static packed": cudnn(algorithm="persist_static", packed=True),
    "torch": LIBRARIES["torch"].make,
}
# A dry run takes one of each kind: starting a process costs more there than what it does.
DRY = {"scan", "64, unroll 4", "cudnn", "linen", "torch", *VMAPPED, *STEPS, "standard", "dynamic"}
EVERYONE = {**SPEED, **VMAPPED, **STEPS, **SETTINGS}
# These have the same parameters, so that their losses must agree.
SAME = {*SPEED, *SETTINGS} - {"linen", "torch"}
