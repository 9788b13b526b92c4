"""Tables, from times that are known."""

import math

import pytest
from rich.console import Console

from gruflax.bench.case import Case, describe_machine, thread_count
from gruflax.bench.measure import Group, Result, Spread
from gruflax.bench.report import (
    format_seconds,
    group_table,
    machine_line,
    ratios_table,
    remarks,
)


def result(name, kind, median, note=""):
    return Result(name, kind, Spread(median, 0.9 * median, 1.1 * median, 7), 0.25, 3 * 2**20, note)


@pytest.fixture
def groups():
    results = (
        result("keras", "jax", 3e-3),
        result("gruflax (auto)", "gruflax", 2e-3),
        result("gruflax (scan)", "gruflax", 2.5e-3),
        result("flax.linen", "jax", 2.4e-3, note="is different"),
        Result("torch", "other", Spread(4e-3, 4e-3, 4e-3, 7), None, None, ""),
    )
    absences = {"haiku": "has no masks"}
    case = Case(2, 3, 4, 5, masked=True)
    return [Group(case, mode, results, absences) for mode in ("forward", "value_and_grad")]


def text_of(table):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_table_has_times_ratios_and_costs_fastest_first(groups):
    text = text_of(group_table(groups[0]))
    assert "forward (2, 3, 4, 5) float32 masked" in text
    lines = [line.split() for line in text.splitlines() if " ms " in line]
    assert [line[0] for line in lines] == "gruflax flax.linen gruflax keras torch".split()
    assert " ".join(lines[0]) == "gruflax (auto) 2.00 ms 1.80-2.20 ms 1.20 250 ms 3.00 MiB"
    assert " ".join(lines[1]) == "flax.linen 2.40 ms 2.16-2.64 ms 1.00 250 ms 3.00 MiB"
    assert " ".join(lines[4]) == "torch 4.00 ms 4.00-4.00 ms 0.60 - -"
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.1234, "123 ms"),
        (2e-3, "2.00 ms"),
        (4.56e-5, "45.6 us"),
        (math.nan, "-"),
    ],
)
def test_seconds_get_a_unit_that_suits(value, text):
    assert format_seconds(value) == text


def test_ratios_are_a_table(groups):
    text = text_of(ratios_table(groups))
    row = next(line for line in text.splitlines() if "value_and_grad" in line)
    assert row.split()[-4:] == ["1.20", "1.20", "1.20", "1"]


def test_remarks_are_said_once(groups):
    assert remarks(groups) == ["haiku has no masks: left out", "flax.linen is different"]


def test_the_machine_is_named():
    machine = describe_machine("cpu")
    assert set(machine) >= {"cpu", "threads", "device", "device_kind", "python", "versions"}
    assert machine["cpu"] and machine["threads"] == thread_count() >= 1
    assert {"jax", "flax", "numpy"} <= set(machine["versions"])
    line = machine_line(machine)
    assert machine["cpu"] in line and f"jax {machine['versions']['jax']}" in line
