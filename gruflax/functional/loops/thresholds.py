"""Sizes at which one loop, product or chunk length becomes faster than another, measured on CPUs.

If `jax.vmap` maps the parameters, the sizes are those of one member. The choices here change the
speed and not the results.
"""

import math

from gruflax.functional.call import Call
from gruflax.functional.checks import at_least_float32
from gruflax.functional.params import GATES
from gruflax.functional.time import even_length


def rows_of(call: Call) -> int:
    """Returns the number of sequences; sizes that are symbols of `jax.export` count as 1."""
    batch = call.initial_state.shape[:-1]
    return math.prod(size if isinstance(size, int) else 1 for size in batch)


# The limits of the kernel, in bytes of weights for each row. Above them the weights do not fit the
# caches and are read at every step for few rows, which XLA's products do faster.
_FORWARD_BYTES, _BACKWARD_BYTES = 9 * 2**17, 3 * 2**17

# The forward pass can keep four arrays of each step for the backward pass: z, r, the candidate and
# the array that r multiplies. Otherwise the backward pass computes them again, with one more
# product. Keeping them makes training up to a fifth faster and takes four times the memory of the
# outputs. They are kept up to this size: calls far above the size of the caches gain less, and long
# sequences should not run out of memory.
KEPT_GATES = 4
_KEPT_BYTES = 64 * 2**20


def runs_well(call: Call) -> bool:
    """Returns whether the kernel computes the states of a call faster than the chunked loop."""
    return call.loop == "native" or _row_bytes(call) <= _FORWARD_BYTES


def gradients_run_well(call: Call) -> bool:
    """Returns whether the kernel computes the gradients of a call faster than the chunked loop."""
    return call.loop == "native" or _row_bytes(call) <= _BACKWARD_BYTES


def keeps_gates(call: Call, members: int | None = None) -> bool:
    """Returns whether the forward pass keeps the gates for the backward pass."""
    sizes = (members or 1, rows_of(call), call.time, call.initial_state.shape[-1])
    if call.remat or not all(isinstance(size, int) for size in sizes):
        return False
    itemsize = at_least_float32(call.steps.inputs.dtype).itemsize
    return KEPT_GATES * math.prod(sizes) * itemsize < _KEPT_BYTES


def _row_bytes(call: Call) -> float:
    units, columns = call.params["recurrent_kernel"].shape
    itemsize = at_least_float32(call.steps.inputs.dtype).itemsize
    weights = (call.steps.inputs.shape[-1] + units) * columns * itemsize
    return weights / max(1, rows_of(call))


# With more rows, or in the forward pass fewer units, the plain product is at least as fast.
_MOST_ROWS, _WIDE_UNITS = 32, 512


def choose_products(rows: int, units: int) -> tuple[bool, bool]:
    """Chooses, for the forward and the backward pass, if CPUs multiply with the kernel on the left.

    With few rows XLA would otherwise rearrange the recurrent kernel at every step. The forward pass
    needs a transposed copy for it, which only pays if the kernel is large.
    """
    few = 1 < rows <= _MOST_ROWS
    return few and units >= _WIDE_UNITS, few


# The arrays of a chunk should stay in a core's cache. A sequence that nearly fits is one chunk,
# because a loop over chunks copies every state once more.
_BLOCK_BYTES, _ONE_CHUNK_BYTES = 2**21, 5 * 2**20
_SHORTEST, _LONGEST = 8, 256


def chunk_length(time: int, batch: int, features: int, units: int, itemsize: int) -> int:
    """Chooses the steps per chunk: at most `time`, a divisor of it where one is near.

    A chunk has the most steps, up to 256, whose projected inputs fit the cache. It has at least so
    many that adding up the weights' gradients, once per chunk, costs less than the products. A
    sequence of up to 256 steps and 5 MiB is one chunk.
    """
    step_bytes = max(1, GATES * batch * units * itemsize)
    if 0 < time <= min(_LONGEST, _ONE_CHUNK_BYTES // step_bytes):
        return time
    cached = _BLOCK_BYTES // step_bytes
    amortised = -(-(features + units) // max(1, batch))
    wanted = max(_SHORTEST, min(_LONGEST, cached), min(_LONGEST, amortised))
    return even_length(time, min(wanted, max(1, time)))
