"""Masks and lengths, into each other and into shape."""

import jax
import numpy as np
import pytest

from gruflax import lengths_to_mask, mask_to_lengths
from gruflax.functional.masks import combined_mask, steps_to_mask


def test_lengths_to_mask_and_back():
    mask = lengths_to_mask(np.array([[3, 0], [5, 1]]), 5)
    wanted = [["11100", "00000"], ["11111", "10000"]]
    assert [["".join(map(str, row.astype(int))) for row in pair] for pair in mask] == wanted
    np.testing.assert_array_equal(mask_to_lengths(mask), [[3, 0], [5, 1]])
    np.testing.assert_array_equal(jax.jit(mask_to_lengths)(mask), [[3, 0], [5, 1]])


def test_gaps_have_no_lengths():
    with pytest.raises(ValueError, match="mask must be right-padded"):
        mask_to_lengths(np.array([[True, False, True]]))


def test_lengths_must_be_integers():
    with pytest.raises(TypeError, match="seq_lengths must be integers, got float32"):
        lengths_to_mask(np.array([1.0], np.float32), 3)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.float16])
@pytest.mark.parametrize("time_major", [True, False])
def test_accepted_forms(dtype, time_major):
    values = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    given = (values.T if time_major else values).astype(dtype)
    for array in (given, given[..., None]):
        result = steps_to_mask("mask", array, (3,), 4, 0 if time_major else 1)
        assert result is not None and result.dtype == bool
        np.testing.assert_array_equal(result, given.astype(bool))


def test_single_rows_broadcast():
    result = steps_to_mask("mask", np.array([[1.0, 0.0]]), (3,), 2, 1)
    np.testing.assert_array_equal(result, [[True, False]] * 3)


def test_mask_and_lengths_must_both_say_so():
    both = combined_mask(np.array([[1, 0, 1], [1, 1, 1]]), np.array([3, 2]), (2,), 3, 1)
    np.testing.assert_array_equal(np.asarray(both), [[1, 0, 1], [1, 1, 0]])
    assert combined_mask(None, None, (2,), 3, 1) is None


@pytest.mark.parametrize("shape", [(3, 5), (4,), (4, 3), (3, 4, 2), (2, 4)])
def test_wrong_mask_shapes_raise(shape):
    with pytest.raises(ValueError, match=r"mask must have shape \(3, 4\) or \(3, 4, 1\), got"):
        combined_mask(np.ones(shape), None, (3,), 4, 1)


def test_wrong_length_shapes_raise():
    with pytest.raises(ValueError, match=r"seq_lengths must have shape \(3,\), got \(2,\)"):
        combined_mask(None, np.array([1, 2]), (3,), 4, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int64])
def test_narrow_lengths_do_not_overflow(dtype):
    mask = lengths_to_mask(np.array([10, 0, 100], dtype), 70000)
    np.testing.assert_array_equal(mask.sum(axis=-1), [10, 0, 100])


@pytest.mark.parametrize("lengths", [[-1, 2], [2, 6], [2**40, 1]])
def test_lengths_outside_of_the_steps_raise_where_they_can_be_seen(lengths):
    with pytest.raises(ValueError, match="seq_lengths must lie between 0 and the 5 steps, got"):
        lengths_to_mask(np.array(lengths), 5)
    traced = jax.jit(lambda lengths: lengths_to_mask(lengths, 5))(np.array([-1, 9], np.int32))
    np.testing.assert_array_equal(traced.sum(axis=-1), [0, 5])


@pytest.mark.parametrize("name", ["mask", "reset"])
def test_masks_of_other_numbers_raise_where_they_can_be_seen(name):
    valid = np.array([[True, False], [True, True]])
    additive = np.where(valid, 0.0, -1e9)
    with pytest.raises(ValueError, match=f"{name} must be bools, .*got values from") as raised:
        steps_to_mask(name, additive, (2,), 2, 1)
    # Nobody adds resets to anything.
    assert ("of an additive mask take `mask == 0`" in str(raised.value)) == (name == "mask")
    with pytest.raises(ValueError, match="must be bools, or numbers of 0 and 1, got values from"):
        steps_to_mask(name, valid * 2, (2,), 2, 1)
    with pytest.raises(TypeError, match=f"{name} must be bools, or numbers of 0 and 1, got"):
        steps_to_mask(name, valid.astype(str), (2,), 2, 1)
    with pytest.raises(ValueError, match="mask must be bools"):
        mask_to_lengths(additive)
