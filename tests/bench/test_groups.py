"""Groups: agreement before timing, absences, ratios."""

import math
import statistics

import jax.numpy as jnp
import numpy as np
import pytest

from gruflax.bench import measure
from gruflax.bench.case import VALUE_AND_GRAD, Case
from gruflax.bench.contestants import Peer, Program
from gruflax.bench.measure import (
    DisagreementError,
    Group,
    Result,
    Spread,
    disagreement,
    measure_group,
)
from gruflax.bench.plan import FULL_SHAPES, MEMORY_SHAPE
from gruflax.bench.report import find_ratios


CASE = Case(2, 3, 4, 5)


def constant(name, kind, value=1.0, **fields):
    return Peer(
        name, kind, lambda case, mode: Program(lambda: jnp.full(3, value), 0.5, 64), **fields
    )


@pytest.fixture
def still(monkeypatch):
    """Replaces the timings by known ones: the n-th contestant takes n seconds."""

    def interleave(runs, seconds):
        return {name: [float(index)] * 3 for index, name in enumerate(runs, start=1)}

    monkeypatch.setattr(measure, "interleave", interleave)


def test_a_group_holds_results_absences_and_notes(still):
    def broken(case, mode):
        raise RuntimeError("no such kernel\nand more")

    peers = (
        constant("gruflax (auto)", "gruflax"),
        constant("a", "jax", note="differs"),
        constant("b", "jax", lacks=("masks",)),
        Peer("c", "other", broken),
        constant("d", "other", package="no_such_library"),
        constant("e", "other", 1.1),
        constant("f", "jax", 1.1, same=False),
    )
    group = measure_group(CASE, "forward", peers, 1.0)
    assert [result.name for result in group.results] == ["gruflax (auto)", "a", "b", "f"]
    first, second, third, _ = group.results
    assert first.spread == Spread(1.0, 1.0, 1.0, 3) and second.spread.median == 2.0
    assert (first.compile_seconds, first.temp_bytes, first.kind) == (0.5, 64, "gruflax")
    assert (second.note, third.note) == ("differs", "")
    assert group.absences == {
        "c": "failed: RuntimeError: no such kernel",
        "d": "is not installed (pip install no_such_library)",
        "e": "differs from gruflax (auto) by 0.1 of the largest entry",
    }
    assert group.best_jax_peer() == "a" and group.seconds("a") == 2.0
    assert math.isnan(group.seconds("z"))
    assert group.result("a") is second and group.result("z") is None


def test_without_seconds_nothing_runs():
    def refuse():
        raise AssertionError("was run")

    peer = Peer("gruflax (auto)", "gruflax", lambda case, mode: Program(refuse, 0.25, 128))
    group = measure_group(CASE, VALUE_AND_GRAD, [peer], 0.0)
    assert group.results == (Result("gruflax (auto)", "gruflax", None, 0.25, 128, ""),)
    assert group.best_jax_peer() == ""


def test_loops_that_disagree_are_never_timed(still):
    peers = (constant("gruflax (scan)", "gruflax"), constant("gruflax (fast)", "gruflax", 1.01))
    with pytest.raises(DisagreementError, match=r"gruflax \(fast\) differs from gruflax \(scan\)"):
        measure_group(CASE, "forward", peers, 1.0)


@pytest.mark.parametrize("other", [np.nan, np.inf, 1.01])
def test_disagreement_includes_nan(still, other):
    wanted, got = [np.ones(3), np.ones(2)], [np.ones(3), np.array([1.0, other])]
    assert not disagreement(CASE, VALUE_AND_GRAD, "gruflax", wanted, got) <= 1e-3
    peers = (constant("a", "gruflax"), constant("b", "gruflax", other))
    with pytest.raises(DisagreementError, match="nothing was timed"):
        measure_group(CASE, "forward", peers, 1.0)


def test_gradients_are_compared_where_they_can_be():
    narrow, wanted = Case(2, 3, 4, 5, "bfloat16"), [np.ones(2), np.ones(3)]
    loss, gradient = [np.full(2, 1.2), np.ones(3)], [np.ones(2), np.full(3, 1.2)]
    for case, kind, checked in ((CASE, "gruflax", 0.2), (narrow, "gruflax", 0), (CASE, "jax", 0)):
        assert disagreement(case, VALUE_AND_GRAD, kind, wanted, gradient) == pytest.approx(checked)
        assert disagreement(case, VALUE_AND_GRAD, kind, wanted, loss) == pytest.approx(0.2)
    assert disagreement(CASE, "forward", "jax", wanted, [np.ones(4)]) == np.inf


def test_libraries_are_compared_at_valid_steps_and_without_dropout():
    case = Case(2, 3, 4, 5, masked=True)
    wanted = np.ones((2, 3, 5))
    padded = np.where(case.mask()[..., None], wanted, 9)
    assert disagreement(case, "forward", "jax", [wanted], [padded]) == 0
    assert disagreement(case, "forward", "gruflax", [wanted], [padded]) == 8
    assert disagreement(case, "forward", "jax", [wanted], [2 * padded]) == 1
    dropping = Case(2, 3, 4, 5, dropout=0.1)
    assert disagreement(dropping, "forward", "jax", [wanted], [padded]) == 0


def test_gruflax_may_only_fail_by_saying_that_a_loop_does_not_run_here(still):
    def fails_with(error):
        def make(case, mode):
            raise error

        return Peer("gruflax (kernel)", "gruflax", make)

    group = measure_group(CASE, "forward", [fails_with(ValueError("needs a GPU"))], 1.0)
    assert group.absences["gruflax (kernel)"] == "failed: ValueError: needs a GPU"
    with pytest.raises(TypeError, match="a defect"):
        measure_group(CASE, "forward", [fails_with(TypeError("a defect"))], 1.0)


def group_of(shape, mode, medians, memory=None, **fields):
    kinds = {"gruflax (auto)": "gruflax", "onnxruntime": "other"}
    kinds |= dict.fromkeys(("gruflax in float32", "gruflax without dropout"), "baseline")
    results = tuple(
        Result(
            name,
            kinds.get(name, "jax"),
            None if median is None else Spread(median, median, median, 5),
            None,
            (memory or {}).get(name),
            "",
        )
        for name, median in medians.items()
    )
    return Group(Case(*shape, **fields), mode, results, {})


def test_ratios_of_known_times():
    times = {"gruflax (auto)": 2.0, "keras": 3.0, "haiku": 4.0}
    slower = times | {"keras": 24.0, "haiku": 24.0}
    memory = {"gruflax (auto)": 10, "flax.linen": 45}
    groups = [
        group_of(FULL_SHAPES[0], VALUE_AND_GRAD, times),
        group_of(FULL_SHAPES[1], VALUE_AND_GRAD, slower),
        group_of(FULL_SHAPES[0], "forward", {"gruflax (auto)": 2.0, "onnxruntime": 1.0}),
        group_of(MEMORY_SHAPE, VALUE_AND_GRAD, dict.fromkeys(memory), memory=memory),
    ]
    assert find_ratios(groups) == {
        "value_and_grad (float32): best JAX peer / gruflax (auto)": [1.5, 12.0],
        "forward (float32): onnxruntime / gruflax (auto)": [0.5],
        "temporary memory of value_and_grad (float32): flax.linen / gruflax (auto)": [4.5],
    }


def test_masked_cases_have_ratios_of_their_own():
    times = {"gruflax (auto)": 1.0, "keras": 2.0}
    groups = [group_of((9, 9, 9, 9), "forward", times, masked=masked) for masked in (False, True)]
    assert list(find_ratios(groups)) == [
        "forward (float32): best JAX peer / gruflax (auto)",
        "forward (float32, masked): best JAX peer / gruflax (auto)",
    ]


def test_variants_have_ratios_of_their_own():
    times = {"gruflax (auto)": 1.0, "flax.linen": 4.0, "keras": 2.0}
    of = {"gruflax (auto)": 3.0}
    groups = [
        group_of(FULL_SHAPES[0], "forward", times, members=4),
        group_of((1, 9, 9, 9), "forward", times | {"flax.linen": 9.0}, members=64),
        group_of((9, 9, 9, 9), VALUE_AND_GRAD, times, per_example=True),
        group_of((9, 9, 9, 9), VALUE_AND_GRAD, of | {"gruflax without dropout": 2.0}, dropout=0.1),
        group_of((9, 9, 9, 9), "forward", of | {"gruflax in float32": 4.0}, dtype="bfloat16"),
    ]
    found = find_ratios(groups).items()
    assert {name: statistics.geometric_mean(each) for name, each in found} == pytest.approx(
        {
            "forward (float32, vmapped parameters): best JAX peer / gruflax (auto)": 2.0,
            "forward (float32, vmapped parameters): flax.linen / gruflax (auto)": 6.0,
            "value_and_grad (float32, per-example gradients): best JAX peer / gruflax (auto)": 2.0,
            "value_and_grad (float32, per-example gradients): flax.linen / gruflax (auto)": 4.0,
            "value_and_grad (float32, dropout 0.1): gruflax (auto) / gruflax without dropout": 1.5,
            "forward (bfloat16): gruflax (auto) / gruflax in float32": 0.75,
        }
    )
