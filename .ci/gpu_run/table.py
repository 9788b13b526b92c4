"""The table at the end: all that matters of `results.jsonl`, in less than 10,000 characters."""

import collections
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from record import Facts, options, read


# How far apart losses of the same parameters may be, in 16 bits too.
LOSSES = 1e-2


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Sets rows in columns, the first to the left."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def distinct(facts: list[Facts], name: str) -> list[Any]:
    """Lists the values of a fact, each once, as they came."""
    return list(dict.fromkeys(fact[name] for fact in facts if name in fact))


def card(facts: list[Facts]) -> str:
    """Says what was asked, and what it can do."""
    said = []
    for fact in facts:
        if "ended" not in fact:
            said.append(
                " ".join(
                    f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in fact.items()
                )
            )
    return "\n".join(said)


def exactness(facts: list[Facts]) -> str:
    """Counts what is right, by loop and dtype, and names what is not."""
    judged = [fact for fact in facts if "verdict" in fact]
    rows = [("loop, dtype", "right", "refused", "WRONG", "FAILED", "largest error")]
    for path in distinct(judged, "path"):
        for dtype in distinct(judged, "dtype"):
            mine = [fact for fact in judged if (fact["path"], fact["dtype"]) == (path, dtype)]
            counts = collections.Counter(fact["verdict"] for fact in mine)
            right = [fact["error"] for fact in mine if fact["verdict"] == "right"]
            kinds = (counts[each] for each in rows[0][1:5])
            rows.append((f"{path}, {dtype}", *kinds, f"{max(right, default=0):.1e}"))
    bad = [
        f"{fact['verdict']} {fact['path']} {fact['dtype']} {fact['case']}: "
        + (f"{fact['error']:.2e}" if "error" in fact else fact["reason"][:120])
        for fact in judged
        if fact["verdict"] in ("WRONG", "FAILED")
    ]
    products = [
        f"products of {fact['path']}, {fact['case']}: {fact['products']} ({fact['error']:.1e})"
        for fact in judged
        if "products" in fact and fact["case"].startswith("large")
    ]
    more = [f"... and {len(bad) - 8} more, in results.jsonl"] if len(bad) > 8 else []
    died = [f"DIED {fact['path']}: {fact['died']}" for fact in facts if "died" in fact]
    planned = [f"{fact['path']} {fact['planned']}" for fact in facts if "planned" in fact]
    return "\n".join(
        [columns(rows), f"planned: {', '.join(planned)}", *died, *bad[:8], *more, *products]
    )


def milliseconds(fact: Facts | None) -> str:
    """Returns a median, or a word for why there is none."""
    if fact is None:
        return "-"
    if fact.get("median") is not None:
        return f"{fact['median'] * 1e3:.3g}"
    reason = fact.get("error", "")
    return next((word for word in ("cut", "died") if reason.startswith(word)), "none")


def megabytes(fact: Facts | None) -> str:
    """Returns the device's peak beside arguments; or, in brackets, what JAX' compiler planned."""
    if fact and "peak_bytes" in fact:
        return f"{fact['peak_bytes'] / 2**20:.0f}"
    return f"({fact['planned_bytes'] / 2**20:.0f})" if fact and "planned_bytes" in fact else "-"


def race(facts: list[Facts]) -> str:
    """Shows the medians in ms, a row for each case; then memory, and why some have none."""
    timed = [fact for fact in facts if "name" in fact]
    names = distinct(timed, "name")
    keys = list(dict.fromkeys((f["case"], f["dtype"], f["mode"]) for f in timed))
    short = {"value_and_grad": "train", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
    tables = {"ms": milliseconds, "MiB": megabytes}
    parts = []
    for title, show in tables.items():
        rows = [(title, *names)]
        for key in keys:
            case, dtype, mode = key
            if show is megabytes and (dtype, mode) != ("float32", "value_and_grad"):
                continue
            found = {f["name"]: f for f in timed if (f["case"], f["dtype"], f["mode"]) == key}
            label = f"{case[1:-1].replace(' ', '')} {short[dtype]} {short.get(mode, mode)}"
            rows.append((label, *(show(found.get(name)) for name in names)))
        parts.append(columns(rows))
    why = dict.fromkeys(f"{f['name']}: {f['error'][:120]}" for f in timed if "error" in f)
    differ = [f for f in facts if not agree(f)]
    skipped = [f["skipped"] for f in facts if "skipped" in f]
    parts += list(why)[:5]
    parts += [f"LOSSES DIFFER {f['case']} {f['dtype']}: {f['losses_differ']}" for f in differ]
    parts += [f"no time for {len(skipped)}: {', '.join(skipped)}"[:400]] if skipped else []
    return "\n".join(parts)


RACES = ("speed", "members", "algorithms")
STAGES = {"card": card, "exactness": exactness, **dict.fromkeys(RACES, race)}


def agree(fact: Facts) -> bool:
    """Returns whether losses of the same parameters are near each other, where a fact says so."""
    differ = fact.get("losses_differ", 0)
    return isinstance(differ, (int, float)) and differ <= LOSSES


def is_wrong(fact: Facts, dry: bool) -> bool:
    """Returns whether a fact says that something is wrong.

    Only in a dry run must there be time for all, and every contestant run that is installed: on a
    GPU it is an answer that one is slow, or that cuDNN lacks an algorithm.
    """
    wrong = fact.get("verdict") in ("WRONG", "FAILED") or "died" in fact or bool(fact.get("ended"))
    if "name" in fact and "error" in fact:
        wrong |= dry and "No module named" not in str(fact["error"])
    return wrong or not agree(fact) or (dry and "skipped" in fact)


def missing(facts: dict[str, list[Facts]]) -> int:
    """Counts stages without an end, loops without their cases, and a `cudnn` that never ran."""
    count = sum(not any("ended" in fact for fact in facts[stage]) for stage in STAGES)
    exact = facts["exactness"]
    count += sum(fact.get("planned", 0) for fact in exact)
    count -= sum("verdict" in fact for fact in exact)
    medians = [fact.get("median") for fact in facts["speed"] if fact.get("name") == "cudnn"]
    return count + (not any(medians))


def main() -> None:
    """Prints the table; what cannot be shown of one stage hides no other."""
    chosen = options()
    facts = read(chosen.folder)
    wrong = sum(is_wrong(fact, chosen.dry) for stage in STAGES for fact in facts[stage])
    for stage, show in STAGES.items():
        ends = [fact for fact in facts[stage] if "ended" in fact]
        end = f"exit {ends[0]['ended']}, {ends[0].get('seconds')} s" if ends else "no end"
        print(f"\n=== {stage}: {end}")
        try:
            print(show(facts[stage]))
        except Exception as error:
            wrong += 1
            print(f"cannot be shown: {type(error).__name__}: {error}")
    print(f"\n=== {wrong} wrong, {missing(facts)} missing")
    sys.exit(min(wrong + missing(facts), 1))


if __name__ == "__main__":
    main()
