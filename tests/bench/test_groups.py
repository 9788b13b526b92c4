"""Groups: agreement before timing, absences, ratios."""

import jax.numpy as jnp
import numpy as np
import pytest

from gruflax.bench import measure
from gruflax.bench.case import MEMORY_SHAPE, TARGET_SHAPES, VALUE_AND_GRAD, Case
from gruflax.bench.contestants import Peer, Program
from gruflax.bench.measure import (
    DisagreementError,
    Group,
    Result,
    Spread,
    check_agreement,
    measure_group,
)
from gruflax.bench.report import best_jax_peer, find_targets


CASE = Case(2, 3, 4, 5)


def constant(name, kind, value=1.0, **fields):
    return Peer(
        name, kind, lambda case, mode: Program(lambda: jnp.full(3, value), 0.5, 64), **fields
    )


@pytest.fixture
def still(monkeypatch):
    """Replaces the timings by known ones: the n-th contestant takes n seconds."""

    def interleave(runs, seconds, report):
        report(1.0)
        return {name: [float(index)] * 3 for index, name in enumerate(runs, start=1)}

    monkeypatch.setattr(measure, "interleave", interleave)


def test_a_group_holds_results_absences_and_notes(still):
    def broken(case, mode):
        raise RuntimeError("no such kernel\nand more")

    peers = (
        constant("gruflax (auto)", "gruflax"),
        constant("a", "jax", note="differs"),
        constant("b", "jax", masks=False, mask_note="packs"),
        Peer("c", "other", broken),
        constant("d", "other", modules=("no_such_library",), package="d"),
    )
    shares = []
    group = measure_group(CASE, "forward", peers, 1.0, lambda what, share: shares.append(share))
    assert [result.name for result in group.results] == ["gruflax (auto)", "a", "b"]
    first, second, third = group.results
    assert first.spread == Spread(1.0, 1.0, 1.0, 3) and second.spread.median == 2.0
    assert (first.compile_seconds, first.temp_bytes, first.kind) == (0.5, 64, "gruflax")
    assert (second.note, third.note) == ("differs", "")
    assert [tuple(absence) for absence in group.absences] == [
        ("c", "failed: RuntimeError: no such kernel"),
        ("d", "is not installed (pip install d)"),
    ]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert best_jax_peer(group) is second
    assert group.result("a") is second and group.result("z") is None


def test_without_seconds_nothing_runs():
    def refuse():
        raise AssertionError("was run")

    peer = Peer("gruflax (auto)", "gruflax", lambda case, mode: Program(refuse, 0.25, 128))
    group = measure_group(CASE, VALUE_AND_GRAD, [peer], 0.0)
    assert group.results == (Result("gruflax (auto)", "gruflax", None, 0.25, 128, ""),)
    assert best_jax_peer(group) is None


def test_loops_that_disagree_are_never_timed(still):
    peers = (constant("gruflax (scan)", "gruflax"), constant("gruflax (fast)", "gruflax", 1.01))
    with pytest.raises(DisagreementError, match=r"gruflax \(fast\) and gruflax \(scan\) differ"):
        measure_group(CASE, "forward", peers, 1.0)


@pytest.mark.parametrize("other", [np.nan, np.inf, 1.01])
def test_disagreement_includes_nan(other):
    outcomes = {"a": [np.ones(3), np.ones(2)], "b": [np.ones(3), np.array([1.0, other])]}
    with pytest.raises(DisagreementError, match="nothing was timed"):
        check_agreement(CASE, VALUE_AND_GRAD, outcomes)
    narrow = Case(2, 3, 4, 5, "bfloat16")
    assert check_agreement(narrow, VALUE_AND_GRAD, outcomes) is None
    with pytest.raises(DisagreementError):
        check_agreement(narrow, VALUE_AND_GRAD, {"a": [np.ones(2)], "b": [np.full(2, 1.2)]})


def test_gruflax_may_only_fail_by_saying_that_a_loop_does_not_run_here(still):
    def fails_with(error):
        def make(case, mode):
            raise error

        return Peer("gruflax (kernel)", "gruflax", make)

    group = measure_group(CASE, "forward", [fails_with(ValueError("needs a GPU"))], 1.0)
    assert group.absences[0].reason == "failed: ValueError: needs a GPU"
    with pytest.raises(TypeError, match="a defect"):
        measure_group(CASE, "forward", [fails_with(TypeError("a defect"))], 1.0)


def group_of(shape, mode, medians, memory=None, **fields):
    kinds = {"gruflax (auto)": "gruflax", "a product of 2048^3": "product", "onnxruntime": "other"}
    kinds |= {"gruflax.gru_cell_step": "gruflax", "gruflax.GRU (stateful)": "gruflax"}
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
    return Group(Case(*shape, **fields), mode, results, ())


def test_targets_of_known_times():
    times = {"gruflax (auto)": 2.0, "keras": 3.0, "haiku": 4.0, "a product of 2048^3": 1.0}
    slower = times | {"keras": 24.0, "haiku": 24.0}
    memory = {"gruflax (auto)": 10, "flax.linen": 45}
    groups = [
        group_of(TARGET_SHAPES[0], VALUE_AND_GRAD, times),
        group_of(TARGET_SHAPES[1], VALUE_AND_GRAD, slower),
        group_of((9, 9, 9, 9), VALUE_AND_GRAD, {"gruflax (auto)": 2.0, "keras": 0.1}),
        group_of(TARGET_SHAPES[0], "forward", {"gruflax (auto)": 2.0, "onnxruntime": 1.0}),
        group_of(MEMORY_SHAPE, VALUE_AND_GRAD, dict.fromkeys(memory), memory=memory),
        group_of(
            (1, 1, 4, 5),
            "step",
            {
                "gruflax.gru_cell_step": 1.0,
                "gruflax.GRU (stateful)": 4.0,
                "flax.linen.GRUCell": 2.0,
            },
        ),
    ]
    targets = {target.name: target for target in find_targets(groups)}
    best = targets.pop("value_and_grad (float32): best JAX peer / gruflax (auto)")
    assert best.mean == pytest.approx((1.5 * 12) ** 0.5)
    assert best[2:] == (1.5, 12.0, "(32, 100, 64, 128) float32", 2)
    means = {name: target.mean for name, target in targets.items()}
    assert means == pytest.approx(
        {
            "value_and_grad (float32): gruflax (auto), share of a product of 2048^3": (
                # 3 passes over b t (f + u) 3u products in 2 s, and 2048^3 in 1 s; of both.
                3 / 2 / 2048**3 * (32 * 100 * 192 * 384 * 64 * 200 * 384 * 768) ** 0.5
            ),
            "forward (float32): onnxruntime / gruflax (auto)": 0.5,
            "temporary memory of value_and_grad (float32): flax.linen / gruflax (auto)": 4.5,
            "one step per call (float32): flax.linen.GRUCell / gruflax.gru_cell_step": 2.0,
            "one step per call (float32): flax.linen.GRUCell / gruflax.GRU (stateful)": 0.5,
        }
    )


def test_masked_cases_are_targets_of_their_own():
    times = {"gruflax (auto)": 1.0, "keras": 2.0}
    groups = [group_of((9, 9, 9, 9), "forward", times, masked=masked) for masked in (False, True)]
    assert [target.name for target in find_targets(groups)] == [
        "forward (float32): best JAX peer / gruflax (auto)",
        "forward (float32, masked): best JAX peer / gruflax (auto)",
    ]


def test_variants_are_targets_of_their_own():
    times = {"gruflax (auto)": 1.0, "flax.linen": 4.0, "keras": 2.0}
    of = {"gruflax (auto)": 3.0}
    groups = [
        group_of(TARGET_SHAPES[0], "forward", times, members=4),
        group_of((1, 9, 9, 9), "forward", times | {"flax.linen": 9.0}, members=64),
        group_of((9, 9, 9, 9), VALUE_AND_GRAD, times, per_example=True),
        group_of((9, 9, 9, 9), VALUE_AND_GRAD, of | {"gruflax without dropout": 2.0}, dropout=0.1),
        group_of((9, 9, 9, 9), "forward", of | {"gruflax in float32": 4.0}, dtype="bfloat16"),
    ]
    assert {target.name: target.mean for target in find_targets(groups)} == pytest.approx(
        {
            "forward (float32, vmapped parameters): best JAX peer / gruflax (auto)": 2.0,
            # Of all shapes, the target shapes or not.
            "forward (float32, vmapped parameters): flax.linen / gruflax (auto)": 6.0,
            "value_and_grad (float32, per-example gradients): best JAX peer / gruflax (auto)": 2.0,
            "value_and_grad (float32, per-example gradients): flax.linen / gruflax (auto)": 4.0,
            "value_and_grad (float32, dropout 0.1): gruflax (auto) / gruflax without dropout": 1.5,
            "forward (bfloat16): gruflax (auto) / gruflax in float32": 0.75,
        }
    )
