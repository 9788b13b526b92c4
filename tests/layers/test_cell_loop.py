"""Any cell over a sequence: here one that adds up its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gruflax.layers.cell_loop import loop_cell, step_shape, time_axis


X = np.arange(1.0, 13.0, dtype="float32").reshape(2, 3, 2)
ZEROS = jnp.zeros((2, 2))


def add(state, x):
    """A cell whose output is twice its state."""
    state = state + x
    return state, 2 * state


def scanned(body, carry, steps):
    return jax.lax.scan(lambda carry, now: body(add, carry, now), carry, steps)


def unrolled(body, carry, steps):
    return jax.lax.scan(lambda carry, now: body(add, carry, now), carry, steps, unroll=3)


def run(loop, inputs=X, **options):
    return loop_cell(loop, add, inputs, ZEROS, 1, **options)


@pytest.mark.parametrize("loop", [scanned, unrolled])
@pytest.mark.parametrize("time_major", [False, True])
def test_sums(loop, time_major):
    inputs = X.swapaxes(0, 1) if time_major else X
    outputs, state = run(loop, inputs, time_major=time_major)
    outputs = outputs.swapaxes(0, 1) if time_major else outputs
    np.testing.assert_array_equal(outputs, 2 * X.cumsum(1))
    np.testing.assert_array_equal(state, X.sum(1))
    last, _ = run(loop, inputs, time_major=time_major, return_sequences=False)
    np.testing.assert_array_equal(last, 2 * X.sum(1))


@pytest.mark.parametrize("loop", [scanned, unrolled])
def test_masks_resets_and_direction(loop):
    mask = np.array([[True, False, True], [False, True, True]])
    outputs, state = run(loop, mask=mask)
    valid = X * mask[..., None]
    np.testing.assert_array_equal(state, valid.sum(1))
    # The state and the output are alike, so that the first masked step shows the initial state.
    np.testing.assert_array_equal(outputs, 2 * valid.cumsum(1))
    shown, _ = run(loop, mask=mask, zero_output_for_mask=True)
    np.testing.assert_array_equal(shown, np.asarray(outputs) * mask[..., None])
    reset = np.array([[False, True, False], [False, False, True]])
    _, state = run(loop, reset=reset, initial_state=jnp.ones((2, 2)), reset_state=ZEROS)
    np.testing.assert_array_equal(state, [X[0, 1:].sum(0), X[1, 2]])
    backwards, _ = run(loop, go_backwards=True)
    np.testing.assert_array_equal(backwards, 2 * X[:, ::-1].cumsum(1))


def test_no_steps():
    for loop in (scanned, unrolled):
        outputs, state = run(loop, X[:, :0])
        assert outputs.shape == (2, 0, 2) and not state.any()


def test_shapes():
    assert (time_axis(1, False), time_axis(2, False), time_axis(2, True)) == (-2, -3, 0)
    assert step_shape(X.shape, 1, False) == (2, 2) and step_shape(X.shape, 1, True) == (3, 2)
    with pytest.raises(ValueError, match=r"must have a time axis and 2 feature axes .* \(3, 2\)"):
        step_shape(X.shape[1:], 2, False)
    with pytest.raises(ValueError, match="initial_state"):
        run(scanned, initial_state=jnp.zeros((3, 2)))
