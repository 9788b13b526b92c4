"""Timings of contestants, interleaved so that a busy machine disturbs all alike, and checked."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gruflax.bench.case import NARROW, VALUE_AND_GRAD, Case, environment
from gruflax.bench.contestants import GRUFLAX, Peer, Program


class Spread(NamedTuple):
    """The median and the quartiles of some timings, in seconds, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int


def spread(seconds: Sequence[float]) -> Spread:
    """Returns the median and the quartiles of timings."""
    if not seconds:
        raise ValueError("seconds must hold at least one timing, got none.")
    if len(seconds) == 1:
        return Spread(seconds[0], seconds[0], seconds[0], 1)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Spread(median, low, high, len(seconds))


def geometric_mean(ratios: Iterable[float]) -> float:
    """Returns the geometric mean of positive ratios."""
    ratios = list(ratios)
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"ratios must be positive numbers, at least one, got {ratios}.")
    return statistics.geometric_mean(ratios)


Clock = Callable[[], float]

# Shorter samples would time the clock.
SAMPLE_SECONDS = 2e-3
# Thread pools of other contestants spin for milliseconds after their work.
SETTLE_SECONDS = 1e-2
LEAST_ROUNDS = 5
MOST_ROUNDS = 300
MOST_CALLS = 1000


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    report: Callable[[float], None] = lambda share: None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Times contestants in turn, in a new order every round, until the budget is spent.

    Each is warm: it has run before, and where it is short it waits until the threads of others rest
    and runs once more, untimed, before each sample. A sample of a short one is the mean over
    several calls.
    """
    estimates = {name: warm_up(run, clock) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        for done in range(1, MOST_ROUNDS + 1):
            shuffle(order)
            for name in order:
                samples[name].append(sample(runs[name], estimates[name], clock))
            spent = clock() - start
            report(min(1.0, max(spent / seconds, done / MOST_ROUNDS)))
            if spent >= seconds and done >= LEAST_ROUNDS:
                break
    finally:
        if collects:
            gc.enable()
    return samples


def warm_up(run: Callable[[], Any], clock: Clock) -> float:
    """Runs twice, and returns the seconds of the second time."""
    run()
    start = clock()
    run()
    return clock() - start


def sample(run: Callable[[], Any], estimate: float, clock: Clock) -> float:
    """Returns the seconds per call, from as many calls as one sample needs."""
    calls = min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / max(estimate, 1e-9)))
    if estimate < SETTLE_SECONDS:
        time.sleep(SETTLE_SECONDS)
        run()
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


# Share of the largest entry; float32 products are TensorFloat-32 on many GPUs.
TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

Report = Callable[[str, float], None]


class Result(NamedTuple):
    """What was measured of a contestant; no spread where it was only compiled."""

    name: str
    kind: str
    spread: Spread | None
    compile_seconds: float | None
    temp_bytes: int | None
    note: str


class Absence(NamedTuple):
    """Who did not take part, and why."""

    name: str
    reason: str


class Group(NamedTuple):
    """Contestants that did the same work at the same time, and who did not take part."""

    case: Case
    mode: str
    results: tuple[Result, ...]
    absences: tuple[Absence, ...]

    def result(self, name: str) -> Result | None:
        """Returns the result of the contestant of that name, or None."""
        return next((result for result in self.results if result.name == name), None)


class DisagreementError(Exception):
    """Two of gruflax's loops gave different numbers."""


def measure_group(
    case: Case,
    mode: str,
    peers: Sequence[Peer],
    seconds: float,
    report: Report = lambda what, share: None,
) -> Group:
    """Times contestants on one case."""
    with environment(case):
        programs, absences = _build(case, mode, peers, bool(seconds), report)
        runs = {peer.name: program.run for peer, program in programs}
        tell = lambda share: report("timing", (1 + share) / 2)  # noqa: E731
        samples = interleave(runs, seconds, report=tell) if seconds and runs else {}
    results = tuple(
        Result(
            peer.name,
            peer.kind,
            spread(samples[peer.name]) if peer.name in samples else None,
            program.compile_seconds,
            program.temp_bytes,
            (case.masked and peer.mask_note) or peer.note,
        )
        for peer, program in programs
    )
    return Group(case, mode, results, tuple(absences))


def _build(
    case: Case, mode: str, peers: Sequence[Peer], execute: bool, report: Report
) -> tuple[list[tuple[Peer, Program]], list[Absence]]:
    """Builds those that can take part and, with `execute`, runs each once."""
    programs, absences, outcomes = [], [], {}
    for index, peer in enumerate(peers):
        report(f"building {peer.name}", index / len(peers) / 2)
        reason = peer.obstacle(case, mode)
        if reason is None:
            try:
                program = peer.make(case, mode)
                outcome = program.run() if execute else None
            except Exception as error:
                # gruflax says by a ValueError that a loop does not run here; others say it anyhow.
                if peer.kind == GRUFLAX and not isinstance(error, ValueError):
                    raise
                reason = f"failed: {type(error).__name__}: {_first_line(error)}"
            else:
                programs.append((peer, program))
                if execute and peer.kind == GRUFLAX:
                    outcomes[peer.name] = outcome
        if reason is not None:
            absences.append(Absence(peer.name, reason))
    check_agreement(case, mode, outcomes)
    return programs, absences


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def check_agreement(case: Case, mode: str, outcomes: Mapping[str, Any]) -> None:
    """Checks that gruflax's loops give the same numbers, before any is timed.

    In 16 bits only outputs and losses are compared: long sums of gradients depend on their order.
    """
    narrow = case.dtype in NARROW and mode == VALUE_AND_GRAD
    compared = slice(1) if narrow else slice(None)
    leaves = {
        name: [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(outcome)[compared]]
        for name, outcome in outcomes.items()
    }
    first = next(iter(leaves), "")
    for name in leaves:
        for wanted, got in zip(leaves[first], leaves[name], strict=True):
            scale = max(np.abs(wanted).max(), np.finfo(np.float32).tiny)
            error = np.abs(got - wanted).max() / scale
            if not error <= TOLERANCES[case.dtype]:
                raise DisagreementError(
                    f"{name} and {first} differ by {error:.2g} of the largest entry in {mode} of "
                    f"{case.label}; nothing was timed"
                )
