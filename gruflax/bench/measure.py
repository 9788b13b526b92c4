"""Timings of several contestants, interleaved so that a busy machine disturbs all alike."""

import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any


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

    Each is warm: it has run before, and where it is short it runs once more, untimed, before each
    sample. A sample of a short one is the mean over several calls.

    Args:
        runs: what to call, by name; each returns when its work is done.
        seconds: budget for all contestants together; at least five rounds are run whatever it is.
        report: is called after each round with the share of the budget that is spent.
        clock: returns seconds.

    Returns:
        The seconds a call, one entry a round, by name.
    """
    estimates = {name: _warm_up(run, clock) for name, run in runs.items()}
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
                samples[name].append(_sample(runs[name], estimates[name], clock))
            spent = clock() - start
            report(min(1.0, max(spent / seconds, done / MOST_ROUNDS)))
            if spent >= seconds and done >= LEAST_ROUNDS:
                break
    finally:
        if collects:
            gc.enable()
    return samples


def _warm_up(run: Callable[[], Any], clock: Clock) -> float:
    """Runs twice, and returns the seconds of the second time."""
    run()
    start = clock()
    run()
    return clock() - start


def _sample(run: Callable[[], Any], estimate: float, clock: Clock) -> float:
    """Returns the seconds a call, from as many calls as one sample needs."""
    calls = min(MOST_CALLS, math.ceil(SAMPLE_SECONDS / max(estimate, 1e-9)))
    if estimate < SETTLE_SECONDS:
        run()
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls
