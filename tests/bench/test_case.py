"""The problems and their arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from gruflax.bench.case import Case, environment
from gruflax.bench.plan import FULL_SHAPES


def test_arrays_have_the_shapes_of_the_case_and_are_the_same_for_all():
    case = Case(6, 9, 4, 5, masked=True)
    assert case.inputs().shape == (6, 9, 4) and case.inputs().dtype == np.float32
    np.testing.assert_array_equal(case.inputs(), Case(6, 9, 4, 3).inputs())
    lengths = case.lengths()
    assert lengths.min() >= 5 and lengths.max() <= 9 and len(set(lengths.tolist())) > 1
    np.testing.assert_array_equal(case.mask().sum(axis=1), lengths)
    # Right-padded: no valid step after an invalid one.
    assert not (case.mask()[:, 1:] & ~case.mask()[:, :-1]).any()


def test_without_a_mask_there_are_no_lengths():
    case = Case(6, 9, 4, 5)
    assert case.mask() is None and case.lengths() is None
    assert case.label == "(6, 9, 4, 5) float32"
    assert Case(6, 9, 4, 5, masked=True).label == "(6, 9, 4, 5) float32 masked"


def test_variants_say_what_they_are_and_share_a_kind_whatever_their_size():
    case = Case(6, 9, 4, 5, members=2)
    assert case.label == "2 x (6, 9, 4, 5) float32 vmapped parameters"
    assert case.kind == Case(1, 9, 4, 5, members=8).kind == "float32, vmapped parameters"
    assert case.inputs().shape == (2, 6, 9, 4)
    np.testing.assert_array_equal(case.inputs()[0], Case(6, 9, 4, 5).inputs())
    assert Case(6, 9, 4, 5, per_example=True).label == "(6, 9, 4, 5) float32 per-example gradients"
    assert Case(6, 9, 4, 5, "bfloat16", dropout=0.1).kind == "bfloat16, dropout 0.1"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_environment_computes_in_the_dtype(dtype):
    case = Case(1, 2, 3, 4, dtype)
    with environment(case):
        array = jnp.asarray(np.ones(2), dtype)
    assert array.dtype == dtype and array.devices() == {case.jax_device}


def test_the_shapes_that_were_promised():
    assert (1, 1000, 16, 32) in FULL_SHAPES and (64, 200, 128, 256) in FULL_SHAPES
    assert FULL_SHAPES[-1] == (16, 50, 512, 1024) and len(FULL_SHAPES) == 6
