"""What was measured on CPUs: where which loop, which product and which length is the fastest.

Sizes are those of one member where parameters are mapped by `jax.vmap`. Nothing here changes what
is computed.
"""

import math

from gruflax.functional.call import Call
from gruflax.functional.checks import at_least_float32
from gruflax.functional.params import GATES
from gruflax.functional.time import even_length


def rows_of(call: Call) -> int:
    """Returns the number of sequences; one for a size that is a symbol of `jax.export`."""
    batch = call.initial_state.shape[:-1]
    return math.prod(size if isinstance(size, int) else 1 for size in batch)


# The kernel. Where weights are too large for the caches, and rows too few to share what is read of
# them at a step, XLA's products read them faster. These are bytes of weights for each row.
_FORWARD_BYTES, _BACKWARD_BYTES = 9 * 2**17, 3 * 2**17

# Of every step the forward pass can keep what the backward pass would compute again with a product
# of its own: z, r, the candidate and what r multiplies. That makes training up to a fifth faster,
# and takes four times the memory of the outputs. Up to this size of a call it is kept: what is
# larger than the caches by far gains less, and long sequences should fit where they did before.
KEPT_GATES = 4
_KEPT_BYTES = 64 * 2**20


def runs_well(call: Call) -> bool:
    """Returns whether the kernel is the fastest for the states of a call."""
    return call.loop == "native" or _row_bytes(call) <= _FORWARD_BYTES


def gradients_run_well(call: Call) -> bool:
    """Returns whether the kernel is the fastest for the gradients of a call."""
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


# The chunked loop. With more rows, or fewer units forward, the plain form is as fast or faster.
_MOST_ROWS, _WIDE_UNITS = 32, 512


def choose_products(rows: int, units: int) -> tuple[bool, bool]:
    """Chooses whether on CPUs the recurrent kernel is a step's left factor: forward, backward.

    It is with few rows, where XLA would rearrange the kernel at every step; forward only where the
    kernel is large, for it costs a transposed copy of it.
    """
    few = 1 < rows <= _MOST_ROWS
    return few and units >= _WIDE_UNITS, few


# What a chunk works on should stay in a core's cache. A sequence that nearly does is one chunk, for
# an outer loop copies every state once more.
_BLOCK_BYTES, _ONE_CHUNK_BYTES = 2**21, 5 * 2**20
_SHORTEST, _LONGEST = 8, 256


def chunk_length(time: int, batch: int, features: int, units: int, itemsize: int) -> int:
    """Chooses the steps per chunk: at most `time`, a divisor of it where one is near.

    A chunk is as long as its projected inputs fit the cache, at most 256 steps, where a sequence of
    no more than that may take 5 MiB; and at least so long that adding up the weights' gradients,
    once per chunk, costs less than the products.
    """
    step_bytes = max(1, GATES * batch * units * itemsize)
    if 0 < time <= min(_LONGEST, _ONE_CHUNK_BYTES // step_bytes):
        return time
    cached = _BLOCK_BYTES // step_bytes
    amortised = -(-(features + units) // max(1, batch))
    wanted = max(_SHORTEST, min(_LONGEST, cached), min(_LONGEST, amortised))
    return even_length(time, min(wanted, max(1, time)))
