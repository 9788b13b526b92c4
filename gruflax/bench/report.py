"""A run as tables for the terminal and as JSON, and the ratios that gruflax is judged by."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from gruflax.bench.case import FORWARD, MEMORY_SHAPE, STEP, TARGET_SHAPES, VALUE_AND_GRAD
from gruflax.bench.contestants import (
    BASELINE,
    FLOAT32,
    GRUFLAX,
    JAX_PEER,
    NO_DROPOUT,
    PRODUCT,
    PRODUCT_PEER,
    SUBJECT,
    product_share,
)
from gruflax.bench.libraries import OTHER_PEERS
from gruflax.bench.measure import Group, Result, Spread, geometric_mean
from gruflax.bench.steps import STEP_PEERS


LINEN = "flax.linen"

Measure = Callable[[Group], float | None]


class Target(NamedTuple):
    """A ratio over several cases: its geometric mean and its extremes, the lowest with its case."""

    name: str
    mean: float
    lowest: float
    highest: float
    where: str
    cases: int


def best_jax_peer(group: Group) -> Result | None:
    """Returns the fastest of the other JAX libraries, or None where none was timed."""
    peers = [result for result in group.results if result.kind == JAX_PEER and result.spread]
    return min(peers, key=lambda result: seconds(result) or 0.0, default=None)


def seconds(result: Result | None) -> float | None:
    """Returns the median time of a result, or None where there is none."""
    return result.spread.median if result and result.spread else None


def ratio(over: float | None, under: float | None) -> float | None:
    """Divides where both are known and the divisor is not zero."""
    return over / under if over is not None and under else None


def find_targets(groups: Sequence[Group]) -> list[Target]:
    """Computes the ratios that a run allows.

    Geometric means are over the target shapes, or over all shapes where no target was timed.
    """
    targets = []
    for kind in sorted({group.case.kind for group in groups}):
        alike = [group for group in groups if group.case.kind == kind]
        for mode in (VALUE_AND_GRAD, FORWARD):
            timed = _target_groups(alike, mode)
            targets += _comparison(
                f"{mode} ({kind}): best JAX peer / {SUBJECT}", timed, _against_best
            )
            # Of plain calls the best peer says enough of flax.linen.
            linen = () if alike[0].case.plain else (LINEN,)
            pairs = [(name, SUBJECT) for name in (*linen, *(peer.name for peer in OTHER_PEERS))]
            pairs += [(SUBJECT, baseline.name) for baseline in (NO_DROPOUT, FLOAT32)]
            for over, under in pairs:
                name = f"{mode} ({kind}): {over} / {under}"
                targets += _comparison(name, timed, _times(over, under))
            name = f"{mode} ({kind}): {SUBJECT}, share of {PRODUCT_PEER.name}"
            # Of masked steps nothing is multiplied.
            unmasked = [group for group in timed if not group.case.masked]
            targets += _comparison(name, unmasked, _product_share)
        large = [g for g in alike if g.case.shape == MEMORY_SHAPE and g.mode == VALUE_AND_GRAD]
        name = f"temporary memory of value_and_grad ({kind}): {LINEN} / {SUBJECT}"
        targets += _comparison(name, large, _temporary_memory)
        steps = [group for group in alike if group.mode == STEP]
        rival = next(peer.name for peer in STEP_PEERS if peer.kind == JAX_PEER)
        for peer in STEP_PEERS:
            if peer.kind == GRUFLAX:
                name = f"one step per call ({kind}): {rival} / {peer.name}"
                targets += _comparison(name, steps, _times(rival, peer.name))
    return targets


def _target_groups(groups: Iterable[Group], mode: str) -> list[Group]:
    """Picks the timed groups of a mode: of plain calls those of the target shapes, if any."""
    timed = [g for g in groups if g.mode == mode and any(r.spread for r in g.results)]
    return [g for g in timed if not g.case.plain or g.case.shape in TARGET_SHAPES] or timed


def _comparison(name: str, groups: Iterable[Group], measure: Measure) -> list[Target]:
    """Makes one target, or none where nothing can be compared."""
    known = [(value, g.case.label) for g in groups if (value := measure(g)) is not None]
    if not known:
        return []
    values = [value for value, _ in known]
    lowest, where = min(known)
    return [Target(name, geometric_mean(values), lowest, max(values), where, len(known))]


def _against_best(group: Group) -> float | None:
    return ratio(seconds(best_jax_peer(group)), seconds(group.result(SUBJECT)))


def _times(over: str, under: str) -> Measure:
    """Compares the times of two contestants by name."""
    return lambda group: ratio(seconds(group.result(over)), seconds(group.result(under)))


def _product_share(group: Group) -> float | None:
    own, product = (seconds(group.result(name)) for name in (SUBJECT, PRODUCT_PEER.name))
    return own and product and product_share(group.case, group.mode, own, product)


def _temporary_memory(group: Group) -> float | None:
    sizes = [getattr(group.result(name), "temp_bytes", None) for name in (LINEN, SUBJECT)]
    return ratio(*sizes)


MEBIBYTE = 2**20
NOTHING = "-"


def format_seconds(value: float | None) -> str:
    """Writes seconds in the unit that suits them, with three digits."""
    if value is None:
        return NOTHING
    unit, size = _unit(value)
    return f"{_three_digits(value / size)} {unit}"


def _unit(value: float) -> tuple[str, float]:
    """Returns the unit of time that suits a value, and its seconds."""
    return ("s", 1.0) if value >= 1 else ("ms", 1e-3) if value >= 1e-3 else ("us", 1e-6)


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Names a machine and the libraries on one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = "" if machine["device"] == "cpu" else f"{machine['device_kind']}, "
    threads = f"{machine['threads']} threads"
    return f"{device}{machine['cpu']}, {threads}, Python {machine['python']}: {versions}"


def _table(title: str, heading: str) -> Table:
    """Starts a table that fits into 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(heading)
    return table


def group_table(group: Group) -> Table:
    """Puts a group in a table, the fastest first."""
    table = _table(f"{group.mode} {group.case.label}", "contestant")
    for heading in ("median", "middle half", "ratio", "compile", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = seconds(best_jax_peer(group))
    for result in sorted(group.results, key=lambda result: seconds(result) or 0):
        faster = ratio(best, seconds(result))
        table.add_row(
            result.name,
            format_seconds(seconds(result)),
            _middle_half(result.spread),
            NOTHING if faster is None else f"{faster:.2f}",
            format_seconds(result.compile_seconds),
            _format_bytes(result.temp_bytes),
            style={GRUFLAX: "bold", BASELINE: "dim", PRODUCT: "dim"}.get(result.kind),
        )
    return table


def _middle_half(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    unit, size = _unit(spread.high)
    return f"{_three_digits(spread.low / size)}-{_three_digits(spread.high / size)} {unit}"


def _format_bytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / MEBIBYTE:.2f} MiB"


def remarks(groups: Sequence[Group]) -> list[str]:
    """Says once who was absent and why, and whose work differs."""
    absent = (f"{a.name} {a.reason}: left out" for group in groups for a in group.absences)
    notes = (f"{r.name} {r.note}" for group in groups for r in group.results if r.note)
    return list(dict.fromkeys((*absent, *notes)))


def targets_table(targets: Sequence[Target]) -> Table:
    """Puts the ratios of a run in a table."""
    table = _table("in short: geometric means of ratios over the cases", "ratio")
    for heading in ("mean", "lowest", "highest", "cases"):
        table.add_column(heading, justify="right", no_wrap=True)
    for target in targets:
        extremes = (f"{value:.2f}" for value in target[1:4])
        table.add_row(target.name, *extremes, str(target.cases))
    return table


def to_json(
    groups: Sequence[Group], machine: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Turns a run into what JSON can hold."""
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "groups": [
            {
                "case": dataclasses.asdict(group.case),
                "mode": group.mode,
                "results": [_result_dict(group, result) for result in group.results],
                "absences": [absence._asdict() for absence in group.absences],
            }
            for group in groups
        ],
        "targets": [target._asdict() for target in find_targets(groups)],
    }


def _result_dict(group: Group, result: Result) -> dict[str, Any]:
    timing = dict.fromkeys(Spread._fields) if result.spread is None else result.spread._asdict()
    faster = ratio(seconds(best_jax_peer(group)), seconds(result))
    return {**result._asdict(), "spread": timing, "best_jax_peer_over_this": faster}
