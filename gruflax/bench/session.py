"""Builds the contestants of a case, checks gruflax' loops against each other, and times all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gruflax.bench.case import VALUE_AND_GRAD, Case, environment
from gruflax.bench.measure import interleave
from gruflax.bench.peers import Peer, Program
from gruflax.bench.peers.peer import GRUFLAX
from gruflax.bench.spread import Spread, spread


# Share of the largest entry; float32 products are TensorFloat-32 on many GPUs.
TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

Report = Callable[[str, float], None]


class Result(NamedTuple):
    """What was measured of a contestant.

    Attributes:
        name: of the contestant.
        kind: "gruflax", "jax", "other" or "floor".
        spread: of its times, or None where it was only compiled.
        compile_seconds: of tracing and compiling, or None.
        temp_bytes: peak temporary memory, or None.
        note: how its work differs, or nothing.
    """

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
    """Contestants that did the same work at the same time.

    Attributes:
        case: the problem.
        mode: "forward", "value_and_grad" or "step".
        results: of those that took part.
        absences: of the others.
    """

    case: Case
    mode: str
    results: tuple[Result, ...]
    absences: tuple[Absence, ...]

    def result(self, name: str) -> Result | None:
        """Returns the result of the contestant of that name, or None."""
        return next((result for result in self.results if result.name == name), None)


class DisagreementError(Exception):
    """Two of gruflax' loops gave different numbers."""


def measure_group(
    case: Case,
    mode: str,
    peers: Sequence[Peer],
    seconds: float,
    report: Report = lambda what, share: None,
) -> Group:
    """Times contestants on one case.

    Args:
        case: the problem.
        mode: "forward", "value_and_grad" or "step".
        peers: the contestants.
        seconds: budget for the timings, compilation not included; 0 only compiles.
        report: is called with what goes on and with the share of the whole that is done.

    Returns:
        The `Group`.

    Raises:
        DisagreementError: gruflax' loops do not agree.
    """
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
                program = peer.build(case, mode)
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
    """Checks that gruflax' loops give the same numbers, before any is timed.

    In 16 bits only outputs and losses are compared: long sums of gradients depend on their order.

    Args:
        case: says the dtype, and so the tolerance.
        mode: "value_and_grad" where outcomes are losses and gradients.
        outcomes: by the name of the loop, trees of arrays.

    Raises:
        DisagreementError: two differ; the message names them.
    """
    narrow = case.dtype in ("float16", "bfloat16") and mode == VALUE_AND_GRAD
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
