"""The gates of every step, against the equations and against the states of gru_sequence."""

import jax
import numpy as np
import oracle
import pytest

import gruflax
from gruflax.functional import gate_activations


PARAMS = {True: oracle.golden_params(True, True), False: oracle.golden_params(False, True)}
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
H0 = RANDOM.normal(size=(3, 5)).astype(np.float32)
MASK = RANDOM.random(size=(3, 7)) < 0.6
RESET = RANDOM.random(size=(3, 7)) < 0.3
# Dropout masks per gate, as implementation 1 draws them.
DROPPED = gruflax.DropoutMasks(
    2.0 * (RANDOM.random((3, 3, 4)) < 0.5), 2.0 * (RANDOM.random((3, 3, 5)) < 0.5)
)
OPTIONS = {
    "plain": {},
    "mask": {"mask": MASK, "initial_state": H0},
    "lengths": {"seq_lengths": np.array([7, 3, 0]), "initial_state": H0},
    "reset": {"reset": RESET, "initial_state": H0, "mask": MASK},
    "dropout": {"dropout_masks": DROPPED, "initial_state": H0},
    "backwards": {"go_backwards": True, "mask": MASK, "initial_state": H0},
}


@pytest.fixture(params=[True, False], ids=["reset_after", "reset_before"])
def config(request):
    return gruflax.GRUConfig(reset_after=request.param)


def numpy_gates(params, x, before, reset_after, dropped=gruflax.DropoutMasks()):
    """Gates and candidate [b, t, u] as the equations read, in float64."""
    units = before.shape[-1]
    kernels, recurrent = (
        np.split(np.asarray(params[name], np.float64), 3, axis=-1)
        for name in ("kernel", "recurrent_kernel")
    )
    bias = np.split(np.atleast_2d(np.asarray(params["bias"], np.float64)), 3, axis=-1)
    ones = np.ones((3, 1, 1, 1))
    x_masks = ones if dropped.inputs is None else dropped.inputs[:, :, None]
    h_masks = ones if dropped.recurrent is None else dropped.recurrent[:, :, None]
    terms = zip(x_masks, kernels, bias, strict=True)
    projected = [x * mask @ kernel + b[0] for mask, kernel, b in terms]
    inner = [b[1] if reset_after else np.zeros(units) for b in bias]
    hidden = [before * h_masks[gate] @ recurrent[gate] + inner[gate] for gate in range(2)]
    update, reset = (1 / (1 + np.exp(-(projected[gate] + hidden[gate]))) for gate in range(2))
    if reset_after:
        recurring = reset * (before * h_masks[2] @ recurrent[2] + inner[2])
    else:
        recurring = reset * before * h_masks[2] @ recurrent[2]
    return update, reset, np.tanh(projected[2] + recurring)


def states_before(states, reset=None, **options):
    """The state that each step begins with [b, t, u]."""
    start = options.get("initial_state", np.zeros_like(H0))
    before = np.concatenate([start[:, None], states[:, :-1]], axis=1)
    fresh = options.get("reset_state", np.zeros_like(H0))
    return before if reset is None else np.where(reset[..., None], fresh[:, None], before)


def valid_of(options):
    """Which steps count [b, t], in the order of processing."""
    lengths = options.get("seq_lengths", np.full(3, 7))
    valid = options.get("mask", True) & (np.arange(7) < lengths[:, None])
    return valid[:, ::-1] if options.get("go_backwards") else valid


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_against_the_equations_and_gru_sequence(config, options):
    params = PARAMS[config.reset_after]
    gates = gate_activations(params, X, config=config, **options)
    outputs, _ = gruflax.gru_sequence(params, X, config=config, **options)
    np.testing.assert_array_equal(gates.state, outputs)

    valid = valid_of(options)[..., None]
    before = states_before(np.asarray(outputs, np.float64), **options)
    x = np.where(valid, X[:, ::-1] if options.get("go_backwards") else X, 0)
    dropped = options.get("dropout_masks", gruflax.DropoutMasks())
    wanted = numpy_gates(params, x, before, config.reset_after, dropped)
    for array, gate in zip(gates[:3], wanted, strict=True):
        np.testing.assert_allclose(array, gate, atol=2e-6)

    update, _, candidate, state = (np.asarray(array) for array in gates)
    new = update * before + (1 - update) * candidate
    np.testing.assert_allclose(np.where(valid, new, before), state, atol=1e-6)


def test_a_key_draws_the_masks_of_gru_sequence():
    config = gruflax.GRUConfig(dropout=0.4, recurrent_dropout=0.3)
    options = {"config": config, "rng": jax.random.key(1)}
    gates = gate_activations(PARAMS[True], X, **options)
    outputs, _ = gruflax.gru_sequence(PARAMS[True], X, **options)
    masks = gruflax.draw_dropout_masks(options["rng"], (3,), 4, 5, config)
    np.testing.assert_array_equal(gates.state, outputs)
    before = states_before(np.asarray(outputs, np.float64))
    dropped = gruflax.DropoutMasks(*(np.asarray(mask, np.float64) for mask in masks))
    wanted = numpy_gates(PARAMS[True], X, before, True, dropped)
    for array, gate in zip(gates[:3], wanted, strict=True):
        np.testing.assert_allclose(array, gate, atol=2e-6)


def test_axes_are_free(config):
    params = PARAMS[config.reset_after]
    gates = gate_activations(params, X, config=config, mask=MASK, initial_state=H0)
    moved = gate_activations(
        params, X.swapaxes(0, 1), config=config, mask=MASK.T, initial_state=H0, time_major=True
    )
    row = gate_activations(params, X[1], config=config, mask=MASK[1], initial_state=H0[1])
    for whole, transposed, alone in zip(gates, moved, row, strict=True):
        assert whole.shape == (3, 7, 5)
        np.testing.assert_allclose(transposed.swapaxes(0, 1), whole, atol=1e-6)
        np.testing.assert_allclose(alone, whole[1], atol=1e-6)


def test_the_activations_are_those_of_the_config():
    config = gruflax.GRUConfig("relu", "hard_sigmoid", use_bias=False)
    params = {name: PARAMS[True][name] for name in ("kernel", "recurrent_kernel")}
    gates = gate_activations(params, 3 * X, config=config, dtype="bfloat16")
    assert {array.dtype for array in gates} == {jax.numpy.dtype("bfloat16")}
    update, candidate = np.float32(gates.update), np.float32(gates.candidate)
    # relu has exact zeros, and hard_sigmoid both its ends.
    assert candidate.min() == 0 < candidate.max()
    assert update.min() == 0 and update.max() == 1


def test_a_layer_and_a_vmap():
    layer = gruflax.GRU(5, return_sequences=True)
    variables = layer.init(jax.random.key(2), X)
    gates = gate_activations(variables["params"], X, mask=MASK)
    np.testing.assert_allclose(gates.state, layer.apply(variables, X, mask=MASK), atol=1e-6)
    mapped = jax.jit(jax.vmap(lambda x, mask: gate_activations(variables["params"], x, mask=mask)))(
        X, MASK
    )
    np.testing.assert_allclose(mapped.reset, gates.reset, atol=1e-6)


def test_poison_in_masked_steps_goes_nowhere():
    poisoned = np.where(MASK[..., None], X, np.nan).astype(np.float32)
    for one, other in zip(
        gate_activations(PARAMS[True], poisoned, mask=MASK),
        gate_activations(PARAMS[True], X, mask=MASK),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("time", [0, 1])
def test_short_sequences(config, time):
    gates = gate_activations(PARAMS[config.reset_after], X[:, :time], config=config)
    assert {array.shape for array in gates} == {(3, time, 5)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inputs": X[..., :3]}, ValueError, r"inputs must have shape \(\.\.\., time, 4\), got"),
        ({"initial_state": H0[:2]}, ValueError, r"initial_state must have shape \(3, 5\), got"),
        ({"mask": MASK[:, :5]}, ValueError, r"mask must have shape \(3, 7\)"),
        ({"seq_lengths": [1.0, 2.0, 3.0]}, TypeError, "seq_lengths must be integers"),
        ({"params": {}}, ValueError, r"params must hold \['kernel', 'recurrent_kernel', 'bias'\]"),
        ({"dtype": "int32"}, TypeError, "dtype must be a floating dtype, got int32"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        gate_activations(**({"params": PARAMS[True], "inputs": X} | options))
