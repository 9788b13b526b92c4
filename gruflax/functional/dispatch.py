"""Which loop runs a sequence."""

import functools
import math

import jax
from jax import lax

from gruflax.functional.activations import is_pointwise
from gruflax.functional.chunked import chunked_loop
from gruflax.functional.chunks import Fixed, Inputs, Static, chunk_length, even_length, over_chunks
from gruflax.functional.config import GRUConfig
from gruflax.functional.cudnn.loop import cudnn_loop
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops import Steps, carry_through, scan_loop, unrolled_loop
from gruflax.functional.params import Params
from gruflax.functional.products import choose_products
from gruflax.functional.step import step


LOOPS = ("auto", "scan", "chunked", "cudnn")


def run_loop(
    loop: str,
    params: Params,
    state: jax.Array,
    reset_state: jax.Array,
    steps: Steps,
    masks: DropoutMasks,
    *,
    config: GRUConfig,
    precision: lax.PrecisionLike,
    keep_states: bool,
    chunk: int | None,
    remat: bool,
    batch_major: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs a GRU over a sequence by the loop that is asked for.

    Args:
        loop: "scan", "chunked", "cudnn" or "unrolled".
        params: of the GRU, in the compute dtype.
        state: `[..., u]`, the initial state.
        reset_state: `[..., u]`, what a reset goes back to.
        steps: the sequence, `[t, ...]`.
        masks: dropout masks.
        config: the GRU.
        precision: of the products.
        keep_states: whether to return the state after every step.
        chunk: steps a chunk of the chunked loop; None chooses.
        remat: whether the backward pass keeps every sqrt(t)-th state and recomputes the others.
        batch_major: whether the inputs came with the batch first.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.
    """

    def run(params, reset_state, state, steps, batch_major=False):
        if loop == "chunked":
            inputs = Inputs(params, state, reset_state, steps.inputs, masks)
            static = Static(config, precision, keep_states, *_chosen(inputs, chunk), batch_major)
            return chunked_loop(static, inputs, Fixed(steps.valid, steps.reset))
        if loop == "cudnn":
            states = cudnn_loop(params, state, steps, masks, precision=precision)
            return states[-1], states if keep_states else None
        one_step = functools.partial(step, params, config=config, masks=masks, precision=precision)
        loop_over = unrolled_loop if loop == "unrolled" else scan_loop
        return loop_over(carry_through(one_step, reset_state), state, steps, keep_states)

    time = steps.inputs.shape[0]
    if not remat or not isinstance(time, int) or time <= 1:
        return run(params, reset_state, state, steps, batch_major)
    # Segments are slices with time first.
    segment = functools.partial(jax.checkpoint(run), params, reset_state)
    return over_chunks(segment, state, steps, even_length(time, math.isqrt(time - 1) + 1))


def _chosen(inputs: Inputs, chunk: int | None) -> tuple[int, bool, bool]:
    """Chooses the steps a chunk and the forms of a step's product: a matter of speed only."""
    time, *batch, features = inputs.x.shape
    units = inputs.initial_state.shape[-1]
    # In jax.export a batch size may be a symbol.
    rows = math.prod(size if isinstance(size, int) else 1 for size in batch)
    if chunk is None:
        chunk = chunk_length(time, rows, features, units, inputs.x.dtype.itemsize)
    return min(chunk, time), *choose_products(rows, units)


def choose_loop(loop: str, unroll: bool, time: int, config: GRUConfig) -> str:
    """Chooses the loop for a sequence.

    Args:
        loop: one of `LOOPS`.
        unroll: whether a Python loop is asked for.
        time: number of steps.
        config: the GRU.

    Returns:
        "scan", "chunked", "cudnn" or "unrolled". "auto" is the chunked loop, but for activations
        without partial derivatives unit by unit, for which that loop saves memory and not time.

    Raises:
        ValueError: `loop` is unknown.
    """
    if loop not in LOOPS:
        raise ValueError(f"loop must be one of {LOOPS}, got {loop!r}.")
    if not unroll and not isinstance(time, int):
        # In jax.export sizes may be symbols, and the scan is the loop that asks nothing of them.
        return "scan"
    if unroll or time <= 1:
        return "unrolled"
    if loop != "auto":
        return loop
    pointwise = is_pointwise(config.activation) and is_pointwise(config.recurrent_activation)
    return "chunked" if pointwise else "scan"
