"""gruflax itself, one contestant a loop."""

import functools

import jax
import jax.numpy as jnp

from gruflax.bench.case import DEVICES, Case
from gruflax.bench.peers.peer import GRUFLAX, Inputs, Peer, Program, jax_program
from gruflax.functional import gru_sequence, init_gru_params
from gruflax.functional.sequence import LOOPS


SUBJECT = "gruflax (auto)"


def gruflax_params(case: Case) -> dict[str, jax.Array]:
    """Draws parameters as Keras does, but for the bias, which is not zero.

    Args:
        case: the sizes and the dtype.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u].
    """
    return init_gru_params(
        jax.random.key(0),
        case.features,
        case.units,
        bias_initializer=jax.nn.initializers.normal(0.1),
        dtype=jnp.dtype(case.dtype),
    )


def _make(loop: str, case: Case, mode: str, chunk: int | None = None) -> Program:
    def apply(params: dict[str, jax.Array], inputs: Inputs) -> jax.Array:
        return gru_sequence(params, inputs.x, mask=inputs.mask, loop=loop, chunk=chunk)[0]

    return jax_program(case, mode, apply, gruflax_params(case))


LOOP_PEERS = tuple(
    Peer(
        f"gruflax ({loop})",
        GRUFLAX,
        functools.partial(_make, loop),
        devices=("gpu",) if loop == "cudnn" else DEVICES,
    )
    for loop in LOOPS
)


def chunk_peer(steps: int) -> Peer:
    """Makes the contestant that is the chunked loop with so many steps a chunk."""
    return Peer(
        f"gruflax (chunked {steps})", GRUFLAX, functools.partial(_make, "chunked", chunk=steps)
    )
