"""Tables, JSON and the picture, from times that are known."""

import json

import pytest
from rich.console import Console

from gruflax.bench.case import Case, describe_machine, thread_count
from gruflax.bench.measure import Absence, Group, Result, Spread
from gruflax.bench.report import (
    find_targets,
    format_seconds,
    group_table,
    machine_line,
    remarks,
    targets_table,
    to_json,
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
        result("a product of 2048^3", "product", 1e-3),
    )
    absences = (Absence("haiku", "takes no mask"),)
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
    assert [line[0] for line in lines] == "a gruflax flax.linen gruflax keras torch".split()
    assert " ".join(lines[1]) == "gruflax (auto) 2.00 ms 1.80-2.20 ms 1.20 250 ms 3.00 MiB"
    assert " ".join(lines[2]) == "flax.linen 2.40 ms 2.16-2.64 ms 1.00 250 ms 3.00 MiB"
    assert " ".join(lines[5]) == "torch 4.00 ms 4.00-4.00 ms 0.60 - -"
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.1234, "123 ms"),
        (2e-3, "2.00 ms"),
        (4.56e-5, "45.6 us"),
        (None, "-"),
    ],
)
def test_seconds_get_a_unit_that_suits(value, text):
    assert format_seconds(value) == text


def test_targets_are_a_table(groups):
    text = text_of(targets_table(find_targets(groups)))
    row = next(line for line in text.splitlines() if "value_and_grad" in line)
    assert row.split()[-4:] == ["1.20", "1.20", "1.20", "1"]
    assert "a product of 2048^3" not in text


def test_remarks_are_said_once(groups):
    assert remarks(groups) == ["haiku takes no mask: left out", "flax.linen is different"]


def test_json_holds_everything(groups):
    machine = describe_machine("cpu")
    loaded = json.loads(json.dumps(to_json(groups, machine, {"seconds": 1.0})))
    assert list(loaded) == ["machine", "settings", "groups", "targets"]
    assert loaded["settings"] == {"seconds": 1.0}
    group = loaded["groups"][1]
    assert group["mode"] == "value_and_grad"
    assert group["case"] == {
        "batch": 2,
        "time": 3,
        "features": 4,
        "units": 5,
        "dtype": "float32",
        "masked": True,
        "device": "cpu",
        "members": 0,
        "per_example": False,
        "dropout": 0.0,
    }
    subject = group["results"][1]
    assert subject["name"] == "gruflax (auto)" and subject["spread"]["rounds"] == 7
    assert subject["spread"]["median"] == 2e-3 and subject["temp_bytes"] == 3 * 2**20
    assert subject["best_jax_peer_over_this"] == pytest.approx(1.2)
    assert group["results"][4]["compile_seconds"] is None
    assert group["absences"] == [{"name": "haiku", "reason": "takes no mask"}]
    assert {"name", "mean", "lowest", "highest", "where", "cases"} == set(loaded["targets"][0])


def test_the_machine_is_named():
    machine = describe_machine("cpu")
    assert set(machine) >= {"cpu", "threads", "device", "device_kind", "python", "versions"}
    assert machine["cpu"] and machine["threads"] == thread_count() >= 1
    assert {"jax", "flax", "numpy"} <= set(machine["versions"])
    line = machine_line(machine)
    assert machine["cpu"] in line and f"jax {machine['versions']['jax']}" in line
