"""A run as tables for the terminal and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from gruflax.bench.session import Group, Result
from gruflax.bench.spread import Spread
from gruflax.bench.targets import Target, best_jax_peer, find_targets, ratio, seconds


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
    """Names a machine and the libraries on one line.

    Args:
        machine: as `describe_machine` returns it.

    Returns:
        One line.
    """
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
    """Puts a group in a table, the fastest first.

    Args:
        group: what was measured.

    Returns:
        A table of times, the time of the best JAX peer over this one's as ratio, compile time and
        peak temporary memory.
    """
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
            style="bold" if result.kind == "gruflax" else "dim" if result.kind == "floor" else None,
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
    """Says once who was absent and why, and whose work differs.

    Args:
        groups: what was measured.

    Returns:
        Lines such as "torch is not installed (pip install torch): left out".
    """
    absent = (f"{a.name} {a.reason}: left out" for group in groups for a in group.absences)
    notes = (f"{r.name} {r.note}" for group in groups for r in group.results if r.note)
    return list(dict.fromkeys((*absent, *notes)))


def targets_table(targets: Sequence[Target]) -> Table:
    """Puts the ratios of a run in a table.

    Args:
        targets: the ratios.

    Returns:
        A table of geometric means and extremes.
    """
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
    """Turns a run into what JSON can hold.

    Args:
        groups: what was measured.
        machine: as `describe_machine` returns it.
        settings: the options of the run.

    Returns:
        `machine`, `settings`, `groups` (each `case`, `mode`, `results`, `absences`) and `targets`;
        times in seconds, memory in bytes.
    """
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
