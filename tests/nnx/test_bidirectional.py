"""Bidirectional: two layers, merged."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
MASK = RANDOM.random((3, 7)) < 0.6
STATES = RANDOM.normal(size=(2, 3, 5)).astype(np.float32)


def gru(seed=0, **options):
    options = {
        "return_sequences": True,
        "bias_initializer": "random_normal",
        "loop": "scan",
    } | options
    return grunnx.GRU(4, 5, **options, rngs=nnx.Rngs(seed))


def both(**options):
    return grunnx.Bidirectional(gru(**options), rngs=nnx.Rngs(1))


def reference(module, **options):
    """Forward outputs, backward outputs in forward order, and the states."""
    forward, state = gruflax.gru_sequence(module.forward_layer.params, X, **options)
    backward, other = gruflax.gru_sequence(
        module.backward_layer.params, X, go_backwards=True, **options
    )
    return forward, backward[:, ::-1], state, other


@pytest.mark.parametrize(
    "mode, merged",
    [
        ("concat", lambda one, two: np.concatenate([one, two], -1)),
        ("sum", lambda one, two: one + two),
        ("ave", lambda one, two: (one + two) / 2),
        ("mul", lambda one, two: one * two),
        (None, lambda one, two: (one, two)),
    ],
)
def test_merge_modes(mode, merged):
    module = grunnx.Bidirectional(gru(), gru(1, go_backwards=True), merge_mode=mode)
    forward, backward, *_ = reference(module)
    assert np.abs(forward - backward).max() > 0.1
    np.testing.assert_allclose(module(X), merged(forward, backward), atol=1e-6)


def test_backward_layer_is_made_from_the_forward_one():
    module = both(reset_after=False, dropout=0.3)
    made = module.backward_layer
    assert made.go_backwards and not made.reset_after and made.dropout == 0.3
    difference = made.kernel.get_value() - module.forward_layer.kernel.get_value()
    assert np.abs(difference).max() > 0.01
    cell = grunnx.GRUCell(4, 5, bias_initializer="random_normal", rngs=nnx.Rngs(0))
    module = grunnx.Bidirectional(grunnx.RNN(cell, return_sequences=True), rngs=nnx.Rngs(1))
    backward, _ = gruflax.gru_sequence(module.backward_layer.cell.params, X, go_backwards=True)
    np.testing.assert_allclose(module(X)[..., 5:], backward[:, ::-1], atol=1e-6)


def test_masked_outputs_are_zeros_and_states_come_last():
    module = both(return_state=True)
    outputs, state, other = module(X, mask=MASK, initial_state=list(STATES))
    assert not outputs[~MASK].any()
    parts = [
        gruflax.gru_sequence(layer.params, X, mask=MASK, initial_state=h, go_backwards=back)
        for layer, h, back in (
            (module.forward_layer, STATES[0], False),
            (module.backward_layer, STATES[1], True),
        )
    ]
    np.testing.assert_allclose(outputs[MASK][:, :5], parts[0][0][MASK], atol=1e-6)
    np.testing.assert_allclose(outputs[MASK][:, 5:], parts[1][0][:, ::-1][MASK], atol=1e-6)
    np.testing.assert_allclose(state, parts[0][1], atol=1e-6)
    np.testing.assert_allclose(other, parts[1][1], atol=1e-6)


def test_numbers_are_those_of_linen():
    options = {"return_sequences": True, "return_state": True, "loop": "scan"}
    module = both(**options)
    reset = RANDOM.random((3, 7)) < 0.3
    call = {"mask": MASK, "reset": reset, "initial_state": list(STATES)}
    linen = gruflax.linen.Bidirectional(gruflax.GRU(5, **options))
    wanted = linen.apply(grunnx.to_linen_variables(module), X, **call)
    chex.assert_trees_all_equal(module(X, **call), wanted)


def test_last_outputs_and_time_major():
    module = both(return_sequences=False)
    _, _, state, other = reference(module)
    np.testing.assert_allclose(module(X), np.concatenate([state, other], -1), atol=1e-6)
    module = both(time_major=True)
    forward, backward, *_ = reference(module)
    wanted = np.concatenate([forward, backward], -1).swapaxes(0, 1)
    np.testing.assert_allclose(module(X.swapaxes(0, 1)), wanted, atol=1e-6)


def test_dropout_differs_between_the_directions():
    module = both(dropout=0.5)
    key = jax.random.key(0)
    keys = jax.random.split(key)
    forward, _ = gruflax.gru_sequence(
        module.forward_layer.params, X, config=module.forward_layer.config, rng=keys[0]
    )
    outputs = module(X, rngs=key)
    np.testing.assert_allclose(outputs[..., :5], forward, atol=1e-6)
    assert np.abs(module(X) - outputs).max() > 0.01
    module.eval()
    np.testing.assert_array_equal(module(X), module(X))


def test_jit_and_stateful():
    module = both(stateful=True)
    run = nnx.jit(lambda module, x: module(x))
    first, second = run(module, X), run(module, X)
    whole, _ = gruflax.gru_sequence(module.forward_layer.params, np.concatenate([X, X], 1))
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1)[..., :5], whole, atol=1e-6)
    grunnx.reset_states(module, list(STATES))
    np.testing.assert_array_equal(module.forward_layer.h.get_value(), STATES[0])
    np.testing.assert_array_equal(module.backward_layer.h.get_value(), STATES[1])
    grunnx.reset_states(module)
    np.testing.assert_allclose(run(module, X), first, atol=1e-6)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: grunnx.Bidirectional(gru(), merge_mode="max", rngs=nnx.Rngs(0)),
            ValueError,
            "merge_mode must be one of .*got 'max'",
        ),
        (lambda: grunnx.Bidirectional(gru()), TypeError, "rngs must be given to make the backward"),
        (
            lambda: grunnx.Bidirectional(nnx.Linear(4, 5, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)),
            TypeError,
            "forward_layer must be a gruflax.nnx.GRU or RNN, got Linear",
        ),
        (lambda: grunnx.Bidirectional(gru(), gru()), ValueError, "must have opposite go_backwards"),
        (
            lambda: grunnx.Bidirectional(gru(), gru(go_backwards=True, return_state=True)),
            ValueError,
            "must have the same return_state, got False and True",
        ),
        (
            lambda: grunnx.Bidirectional(
                grunnx.RNN(nnx.LSTMCell(4, 5, rngs=nnx.Rngs(0))), rngs=nnx.Rngs(0)
            ),
            ValueError,
            "backward_layer must be given for a cell of type LSTMCell",
        ),
        (lambda: both()(X, initial_state=[STATES[0]]), ValueError, "got 1"),
        (
            lambda: both()(X, initial_state=STATES[0]),
            ValueError,
            "initial_state must be a tuple or list",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
