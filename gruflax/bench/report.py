"""Tables and lines that show the results of a run in the terminal."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from gruflax.bench.contestants import BASELINE, FLOAT32, GRUFLAX, NO_DROPOUT, SUBJECT
from gruflax.bench.libraries import LINEN, ONNXRUNTIME, TORCH
from gruflax.bench.measure import Group


# The ratios of times, besides that of the best JAX peer to gruflax: numerator, denominator.
PAIRS = (
    *((name, SUBJECT) for name in (LINEN, TORCH, ONNXRUNTIME)),
    *((SUBJECT, baseline.name) for baseline in (NO_DROPOUT, FLOAT32)),
)
MEBIBYTE = 2**20
UNKNOWN = "-"


def find_ratios(groups: Sequence[Group]) -> dict[str, list[float]]:
    """Returns the ratios of all groups by name, which includes the mode and the kind of case."""
    ratios: dict[str, list[float]] = {}
    for group in groups:
        for name, value in _ratios_of(group).items():
            if not math.isnan(value):
                ratios.setdefault(name, []).append(value)
    return ratios


def _ratios_of(group: Group) -> dict[str, float]:
    """Returns the ratios of a group by name, NaN where something was not measured."""
    what, seconds = f"{group.mode} ({group.case.kind})", group.seconds
    best = seconds(group.best_jax_peer()) / seconds(SUBJECT)
    ratios = {f"{what}: best JAX peer / {SUBJECT}": best}
    ratios |= {f"{what}: {over} / {under}": seconds(over) / seconds(under) for over, under in PAIRS}
    linen, own = group.result(LINEN), group.result(SUBJECT)
    # Only cases that were compiled without timing are there for their memory.
    if linen and own and not linen.spread and linen.temp_bytes and own.temp_bytes:
        name = f"temporary memory of {what}: {LINEN} / {SUBJECT}"
        ratios[name] = linen.temp_bytes / own.temp_bytes
    return ratios


def format_seconds(*values: float) -> str:
    """Writes seconds with three digits, all in the unit that suits the last number; NaN is "-"."""
    last = values[-1]
    unit, size = ("s", 1.0) if last >= 1 else ("ms", 1e-3) if last >= 1e-3 else ("us", 1e-6)
    scaled = [value / size for value in values]
    digits = [f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}" for value in scaled]
    return UNKNOWN if math.isnan(last) else f"{'-'.join(digits)} {unit}"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Returns one line with the names of a machine and of the libraries."""
    device = "" if machine["device"] == "cpu" else f"{machine['device_kind']}, "
    libraries = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = f"{machine['threads']} threads"
    return f"{device}{machine['cpu']}, {threads}, Python {machine['python']}: {libraries}"


def new_table(heading: str, *headings: str, title: str | None = None) -> Table:
    """Starts a table that fits into 80 columns, with numbers in all columns but the first."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(heading)
    for each in headings:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def group_table(group: Group) -> Table:
    """Puts a group in a table, the fastest first."""
    headings = ("median", "middle half", "ratio", "compile", "memory")
    table = new_table("contestant", *headings, title=f"{group.mode} {group.case.label}")
    best = group.seconds(group.best_jax_peer())
    for result in sorted(group.results, key=lambda result: group.seconds(result.name)):
        own, spread, memory = group.seconds(result.name), result.spread, result.temp_bytes
        table.add_row(
            result.name,
            format_seconds(own),
            format_seconds(spread.low, spread.high) if spread else UNKNOWN,
            UNKNOWN if math.isnan(best / own) else f"{best / own:.2f}",
            format_seconds(result.compile_seconds or math.nan),
            UNKNOWN if memory is None else f"{memory / MEBIBYTE:.2f} MiB",
            style={GRUFLAX: "bold", BASELINE: "dim"}.get(result.kind),
        )
    return table


def ratios_table(groups: Sequence[Group]) -> Table:
    """Puts the ratios of a run in a table."""
    title = "in short: geometric means of ratios over the cases"
    table = new_table("ratio", "mean", "lowest", "highest", "cases", title=title)
    for name, values in find_ratios(groups).items():
        extremes = (statistics.geometric_mean(values), min(values), max(values))
        table.add_row(name, *(f"{value:.2f}" for value in extremes), str(len(values)))
    return table


def remarks(groups: Sequence[Group]) -> list[str]:
    """Lists, without repeats, who did not take part and why, and whose work differs."""
    absent = (f"{name} {why}: left out" for group in groups for name, why in group.absences.items())
    notes = (f"{r.name} {r.note}" for group in groups for r in group.results if r.note)
    return list(dict.fromkeys((*absent, *notes)))
