"""Compares the numbers of contestants, and times them in turn under the same conditions."""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gruflax.bench.case import NARROW, VALUE_AND_GRAD, Case, environment
from gruflax.bench.contestants import GRUFLAX, JAX_PEER, Peer, Program


Run = Callable[[], object]
Clock = Callable[[], float]

# Shorter samples would measure the resolution of the clock.
SAMPLE_SECONDS = 2e-3
# Thread pools of other contestants spin for milliseconds after their work.
SETTLE_SECONDS = 1e-2
LEAST_ROUNDS = 5
MOST_ROUNDS = 300
MOST_CALLS = 1000


def interleave(
    runs: Mapping[str, Run], seconds: float, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Times contestants in turn, in a new order every round, until the budget is spent.

    Each contestant has run before it is timed. Before each sample, a contestant with a short run
    waits until the threads of the others rest, and runs once more without being timed. A sample of
    a short run is the mean of several calls. Returns the seconds per call, by name.
    """
    estimates = {name: warm_up(run, clock) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    gc.collect()
    start = clock()
    for done in range(1, MOST_ROUNDS + 1):
        shuffle(order)
        for name in order:
            samples[name].append(sample(runs[name], estimates[name], clock))
        if done >= LEAST_ROUNDS and clock() - start >= seconds:
            break
    return samples


def warm_up(run: Run, clock: Clock) -> float:
    """Runs twice, and returns the seconds of the second run."""
    run()
    start = clock()
    run()
    return clock() - start


def sample(run: Run, estimate: float, clock: Clock) -> float:
    """Returns the seconds per call, from as many calls as one sample needs."""
    calls = min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / max(estimate, 1e-9)))
    if estimate < SETTLE_SECONDS:
        time.sleep(SETTLE_SECONDS)
        run()
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


class Spread(NamedTuple):
    """The median and the quartiles of some timings, in seconds, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int


def spread(samples: Sequence[float]) -> Spread:
    """Returns the median and the quartiles of timings."""
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    return Spread(median, low, high, len(samples))


class Result(NamedTuple):
    """The measurements of a contestant; `spread` is None where it was only compiled."""

    name: str
    kind: str
    spread: Spread | None
    compile_seconds: float | None
    temp_bytes: int | None
    note: str


class Group(NamedTuple):
    """The results of contestants on one case in one mode, and why others did not take part."""

    case: Case
    mode: str
    results: tuple[Result, ...]
    absences: dict[str, str]

    def result(self, name: str) -> Result | None:
        """Returns the result of the contestant of that name, or None."""
        return next((result for result in self.results if result.name == name), None)

    def seconds(self, name: str) -> float:
        """Returns the median time of a contestant, NaN where it was not timed."""
        result = self.result(name)
        return result.spread.median if result and result.spread else math.nan

    def best_jax_peer(self) -> str:
        """Returns the name of the fastest of the other JAX libraries, "" where none was timed."""
        times = {r.name: r.spread.median for r in self.results if r.kind == JAX_PEER and r.spread}
        return min(times, key=times.__getitem__, default="")


class DisagreementError(Exception):
    """Two of gruflax's loops gave different numbers."""


# Shares of the largest entry; on many GPUs float32 products are computed in TensorFloat-32.
TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# Other libraries may round at other places, in each of thousands of steps.
LIBRARY_TOLERANCES = {"float64": 1e-6, "float32": 1e-2, "float16": 1e-1, "bfloat16": 1e-1}


def measure_group(case: Case, mode: str, peers: Sequence[Peer], seconds: float) -> Group:
    """Builds contestants, compares their numbers, and times them on one case.

    Args:
        case: the case that they run.
        mode: "forward" or "value_and_grad".
        peers: the contestants.
        seconds: the budget of the timings, all contestants together; 0 only compiles.

    Returns:
        The results, in the order of `peers`.

    Raises:
        DisagreementError: two of gruflax's loops gave different numbers.
    """
    with environment(case):
        programs, absences = _build(case, mode, peers, bool(seconds))
        runs = {peer.name: program.run for peer, program in programs.items()}
        samples = interleave(runs, seconds) if seconds and runs else {}
    results = []
    for peer, program in programs.items():
        timing = spread(samples[peer.name]) if samples else None
        costs = program.compile_seconds, program.temp_bytes
        results.append(Result(peer.name, peer.kind, timing, *costs, peer.note))
    return Group(case, mode, tuple(results), absences)


def _build(
    case: Case, mode: str, peers: Sequence[Peer], execute: bool
) -> tuple[dict[Peer, Program], dict[str, str]]:
    """Builds the contestants that can take part; with `execute`, runs each and compares numbers."""
    programs: dict[Peer, Program] = {}
    absences: dict[str, str] = {}
    found: dict[Peer, list[np.ndarray]] = {}
    for peer in peers:
        reason = peer.obstacle(case, mode)
        if reason is None:
            try:
                program = peer.make(case, mode)
                found[peer] = program.arrays(program.run()) if execute else []
                programs[peer] = program
                continue
            except Exception as error:
                # Where a loop cannot run, gruflax raises a ValueError; others raise anything.
                if peer.kind == GRUFLAX and not isinstance(error, ValueError):
                    raise
                reason = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        absences[peer.name] = reason
    loops = [peer for peer in found if peer.kind == GRUFLAX]
    for peer in [peer for peer in found if loops and execute and peer.same]:
        error = disagreement(case, mode, peer.kind, found[loops[0]], found[peer])
        if not error <= (TOLERANCES if peer in loops else LIBRARY_TOLERANCES)[case.dtype]:
            difference = f"differs from {loops[0].name} by {error:.2g} of the largest entry"
            if peer in loops:
                what = f"{mode} of {case.label}"
                raise DisagreementError(f"{peer.name} {difference} in {what}; nothing was timed")
            absences[peer.name] = difference
            del programs[peer]
    return programs, absences


def disagreement(
    case: Case, mode: str, kind: str, wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]
) -> float:
    """Returns the largest difference, as a share of the largest entry of its array.

    For other libraries the valid outputs or the loss are compared, because their gradients have
    another form. For gruflax everything is compared, except gradients in 16 bits, whose long sums
    depend on the order of summation.
    """
    training, mask, valid = mode == VALUE_AND_GRAD, case.mask(), 1
    if kind != GRUFLAX:
        if case.dropout:
            # Other libraries draw other dropout masks.
            return 0.0
        valid = 1 if training or mask is None else mask[..., None]
    count = 1 if kind != GRUFLAX or (training and case.dtype in NARROW) else len(wanted)
    errors = [0.0]
    for ours, theirs in zip(wanted[:count], got[:count], strict=True):
        if ours.shape != theirs.shape:
            return np.inf
        ours, theirs = (each.astype(np.float64) * valid for each in (ours, theirs))
        scale = max(np.abs(ours).max(), np.finfo(np.float32).tiny)
        errors.append(np.abs(theirs - ours).max() / scale)
    # Unlike Python's, the maximum of NumPy is NaN where a number is NaN.
    return float(np.max(errors))
