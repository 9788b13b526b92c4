"""Properties of gru_sequence that need no oracle, for every loop."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import gruflax


LOOPS = (
    {"loop": "scan"},
    {"unroll": True},
    {"loop": "chunked", "chunk": 3},
    *({"loop": loop} for loop in oracle.NATIVE),
)
PARAMS = {True: oracle.golden_params(True, True), False: oracle.golden_params(False, True)}
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
H0 = RANDOM.normal(size=(3, 5)).astype(np.float32)
MASK = RANDOM.random(size=(3, 7)) < 0.6
RESET = RANDOM.random(size=(3, 7)) < 0.3


@pytest.fixture(params=LOOPS, ids=str)
def run(request):
    return functools.partial(gruflax.gru_sequence, **request.param)


@pytest.fixture(params=[True, False], ids=["reset_after", "reset_before"])
def gru(request, run):
    config = gruflax.GRUConfig(reset_after=request.param)
    return functools.partial(run, PARAMS[request.param], config=config)


def test_against_the_equations(gru):
    reset_after = gru.keywords["config"].reset_after
    outputs, state = gru(X, initial_state=H0, mask=MASK)
    wanted, wanted_state = oracle.numpy_gru(
        PARAMS[reset_after], X, H0, reset_after=reset_after, mask=MASK
    )
    np.testing.assert_allclose(outputs, wanted, atol=2e-6)
    np.testing.assert_allclose(state, wanted_state, atol=2e-6)


@pytest.mark.parametrize("split", [0, 1, 4, 7])
def test_splitting_anywhere_changes_nothing(gru, split):
    outputs, state = gru(X, initial_state=H0, mask=MASK)
    first, middle = gru(X[:, :split], initial_state=H0, mask=MASK[:, :split])
    second, end = gru(X[:, split:], initial_state=middle, mask=MASK[:, split:])
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), outputs, atol=1e-6)
    np.testing.assert_allclose(end, state, atol=1e-6)


def test_padding_changes_no_valid_step(gru):
    lengths = np.array([7, 3, 0])
    outputs, state = gru(X, initial_state=H0, seq_lengths=lengths)
    for row, length in enumerate(lengths):
        alone, end = gru(X[row : row + 1, :length], initial_state=H0[row : row + 1])
        np.testing.assert_allclose(outputs[row, :length], alone[0], atol=1e-6)
        np.testing.assert_allclose(state[row], end[0], atol=1e-6)
        np.testing.assert_array_equal(outputs[row, length:], np.tile(state[row], (7 - length, 1)))
    np.testing.assert_array_equal(state[2], H0[2])


def test_lengths_are_a_mask(gru):
    lengths = np.array([7, 3, 0])
    by_lengths = gru(X, seq_lengths=lengths)
    by_mask = gru(X, mask=gruflax.lengths_to_mask(lengths, 7))
    chex.assert_trees_all_equal(by_lengths, by_mask)


@pytest.mark.parametrize("mask", [None, MASK])
def test_backwards_is_forwards_on_reversed_inputs(gru, mask):
    backwards = gru(X, mask=mask, reset=RESET, initial_state=H0, go_backwards=True)
    flipped = None if mask is None else mask[:, ::-1]
    forwards = gru(X[:, ::-1], mask=flipped, reset=RESET[:, ::-1], initial_state=H0)
    chex.assert_trees_all_equal(backwards, forwards)


def test_a_batch_is_its_rows_and_axes_are_free(gru):
    outputs, state = gru(X, mask=MASK, reset=RESET, initial_state=H0)
    row, row_state = gru(X[1], mask=MASK[1], reset=RESET[1], initial_state=H0[1])
    np.testing.assert_allclose(row, outputs[1], atol=1e-6)
    np.testing.assert_allclose(row_state, state[1], atol=1e-6)
    deep = [array[None, :, None] for array in (X, MASK, RESET, H0)]
    deep_outputs, deep_state = gru(deep[0], mask=deep[1], reset=deep[2], initial_state=deep[3])
    assert deep_outputs.shape == (1, 3, 1, 7, 5) and deep_state.shape == (1, 3, 1, 5)
    np.testing.assert_allclose(deep_outputs[0, :, 0], outputs, atol=1e-6)
    by_vmap, _ = jax.vmap(lambda x, mask: gru(x, mask=mask))(X, MASK)
    np.testing.assert_allclose(by_vmap, gru(X, mask=MASK)[0], atol=1e-6)


def test_time_major_is_a_transpose(gru):
    outputs, state = gru(X, mask=MASK, reset=RESET, initial_state=H0, seq_lengths=[7, 6, 5])
    moved, moved_state = gru(
        X.swapaxes(0, 1),
        mask=MASK.T[..., None],
        reset=RESET.T,
        initial_state=H0,
        seq_lengths=[7, 6, 5],
        time_major=True,
    )
    np.testing.assert_allclose(moved.swapaxes(0, 1), outputs, atol=1e-6)
    np.testing.assert_allclose(moved_state, state, atol=1e-6)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("time", [0, 1, 7])
def test_last_output_is_the_last_of_the_outputs(gru, zero, time):
    options = {"mask": MASK[:, :time], "initial_state": H0, "zero_output_for_mask": zero}
    outputs, state = gru(X[:, :time], **options)
    last, last_state = gru(X[:, :time], **options, return_sequences=False)
    assert outputs.shape == (3, time, 5)
    np.testing.assert_array_equal(state, last_state)
    np.testing.assert_array_equal(last, outputs[:, -1] if time else H0)
    if zero:
        assert not outputs[~MASK[:, :time]].any()


def test_reset_starts_anew(gru):
    reset = np.zeros((3, 7), bool)
    reset[:, 3] = True
    outputs, state = gru(X, initial_state=H0, reset=reset)
    second, end = gru(X[:, 3:])
    np.testing.assert_allclose(outputs[:, 3:], second, atol=1e-6)
    np.testing.assert_allclose(state, end, atol=1e-6)
    given, _ = gru(X, initial_state=H0, reset=reset, reset_state=2 * H0)
    np.testing.assert_allclose(given[:, 3:], gru(X[:, 3:], initial_state=2 * H0)[0], atol=1e-6)
    np.testing.assert_allclose(given[:, :3], outputs[:, :3], atol=1e-6)


def test_reset_counts_at_masked_steps_too(gru):
    reset, mask = np.zeros((3, 7), bool), np.ones((3, 7), bool)
    reset[:, 3], mask[:, 3:5] = True, False
    outputs, _ = gru(X, reset=reset, reset_state=H0, mask=mask)
    np.testing.assert_array_equal(outputs[:, 3:5], np.tile(H0[:, None], (1, 2, 1)))
    np.testing.assert_allclose(outputs[:, 5:], gru(X[:, 5:], initial_state=H0)[0], atol=1e-6)


def test_nested_lists_are_arrays(gru):
    outputs, state = gru(X, mask=MASK, initial_state=H0)
    lists = gru(X.tolist(), mask=MASK.tolist(), initial_state=H0.tolist())
    np.testing.assert_array_equal(lists[0], outputs)
    np.testing.assert_array_equal(lists[1], state)


def test_without_features(run):
    """What is left is a state that moves by itself: that of inputs whose kernel is zero."""

    @jax.jit
    def loss(params, x):
        outputs, _ = run(params, x, initial_state=H0, mask=MASK)
        return (outputs**2).sum(), outputs

    params = PARAMS[True]
    without = {**params, "kernel": params["kernel"][:0]}
    silent = {**params, "kernel": jnp.zeros_like(params["kernel"])}
    gradient = jax.grad(loss, has_aux=True)
    found, outputs = gradient(without, X[..., :0])
    wanted, wanted_outputs = gradient(silent, X)
    np.testing.assert_allclose(outputs, wanted_outputs, atol=1e-6)
    for name in ("recurrent_kernel", "bias"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
    assert found["kernel"].shape == (0, 15)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_in_masked_steps_goes_nowhere(gru, poison):
    poisoned = np.where(MASK[..., None], X, poison).astype(np.float32)

    def loss(x):
        outputs, state = gru(x, mask=MASK, initial_state=H0)
        return (outputs**2).sum() + state.sum()

    clean, clean_gradient = jax.value_and_grad(loss)(np.where(MASK[..., None], X, 0))
    value, gradient = jax.value_and_grad(loss)(poisoned)
    assert value == clean
    np.testing.assert_array_equal(gradient, clean_gradient)
    assert not gradient[~MASK].any() and gradient[MASK].all()


def test_loops_agree_with_scan(gru):
    options = {"mask": MASK, "reset": RESET, "initial_state": H0}
    scan = functools.partial(gru, loop="scan", unroll=False)
    for left, right in zip(gru(X, **options), scan(X, **options), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"inputs": X[..., :3]}, ValueError, r"inputs must have shape \(\.\.\., time, 4\), got"),
        ({"inputs": X[0, 0]}, ValueError, r"inputs must have shape"),
        ({"initial_state": H0[:2]}, ValueError, r"initial_state must have shape \(3, 5\), got"),
        (
            {"reset": RESET, "reset_state": H0[:, :2]},
            ValueError,
            r"reset_state must have shape \(3, 5\), got",
        ),
        ({"reset_state": H0}, ValueError, "reset_state must come with reset"),
        ({"mask": MASK[:, :5]}, ValueError, r"mask must have shape \(3, 7\)"),
        ({"reset": RESET.T}, ValueError, r"reset must have shape \(3, 7\)"),
        ({"seq_lengths": [1, 2]}, ValueError, r"seq_lengths must have shape \(3,\)"),
        ({"seq_lengths": [1.0, 2.0, 3.0]}, TypeError, "seq_lengths must be integers"),
        ({"loop": "fast"}, ValueError, "loop must be one of .*'scan'.*, got 'fast'"),
        (
            {"dropout_masks": gruflax.DropoutMasks(inputs=np.ones((2, 3, 4)))},
            ValueError,
            r"dropout_masks.inputs must have shape \(1, 3, 4\) or \(3, 3, 4\), got \(2, 3, 4\)",
        ),
        (
            {"dropout_masks": gruflax.DropoutMasks(recurrent=np.ones((3, 4)))},
            ValueError,
            r"dropout_masks.recurrent must have shape \(1, 3, 5\) or \(3, 3, 5\), got \(3, 4\)",
        ),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        gruflax.gru_sequence(**({"params": PARAMS[True], "inputs": X} | options))


def test_outputs_of_all_steps_are_never_stored_without_return_sequences():
    def peak(return_sequences):
        def last(x):
            outputs, _ = gruflax.gru_sequence(
                PARAMS[True], x, return_sequences=return_sequences, loop="scan"
            )
            return outputs

        shape = jax.ShapeDtypeStruct((8, 4096, 4), jnp.float32)
        memory = jax.jit(last).lower(shape).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    outputs_of_all_steps = 8 * 4096 * 5 * 4
    assert peak(False) < peak(True) - 0.9 * outputs_of_all_steps
