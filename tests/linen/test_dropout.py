"""Dropout in the linen modules: where keys come from, and how often masks are drawn."""

import functools

import jax
import numpy as np
import pytest
from cells import OwnStep
from flax import linen as nn

import gruflax


X = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
KEY = jax.random.key(0)


def params_of(layer, *args, **kwargs):
    """Parameters with a bias that is not zero."""
    params = layer.init({"params": KEY, "dropout": KEY}, *args, **kwargs)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


class TrainingCell(gruflax.GRUCell):
    """A cell that trains wherever Flax calls it: nn.RNN has no `training` to pass on."""

    def __call__(self, states, inputs):
        return super().__call__(states, inputs, training=True)


def test_flax_rnn_can_share_dropout_masks_between_steps():
    fields = {"dropout": 0.5, "recurrent_initializer": "zeros"}
    constant = np.repeat(X[:, :1], 7, axis=1)
    lines = []
    for split in (False, True):
        rnn = nn.RNN(TrainingCell(5, **fields), split_rngs={"params": False, "dropout": split})
        outputs, _ = rnn.init_with_output({"params": KEY, "dropout": KEY}, constant)
        change = np.diff(outputs, axis=1)
        # One mask moves the state along one line, as the same input at every step does.
        lines.append((np.sign(change) == np.sign(change[:, :1])).all())
    assert lines == [True, False]


def test_dropout_streams():
    layer = gruflax.GRU(5, dropout=0.5, recurrent_dropout=0.5, seed=7)
    params = params_of(layer, X)
    run = functools.partial(layer.apply, {"params": params}, X)
    seeded = run(training=True)
    np.testing.assert_array_equal(seeded, run(training=True))
    streamed = [run(training=True, rngs={"dropout": jax.random.key(key)}) for key in (1, 1, 2)]
    np.testing.assert_array_equal(streamed[0], streamed[1])
    assert np.abs(streamed[0] - streamed[2]).max() > 0.01
    assert np.abs(streamed[0] - seeded).max() > 0.01
    np.testing.assert_array_equal(run(), gruflax.gru_sequence(params, X)[1])
    with pytest.raises(TypeError, match="training must be a Python bool"):
        jax.jit(lambda flag: run(training=flag))(True)


def test_initialization_needs_no_key_for_dropout():
    layer = gruflax.GRU(5, dropout=0.5, recurrent_dropout=0.5)
    outputs, variables = layer.init_with_output(KEY, X, training=True)
    np.testing.assert_array_equal(outputs, layer.apply(variables, X, training=None))


def test_two_calls_draw_two_masks_and_one_call_one():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = gruflax.GRU(5, dropout=0.5)
            return layer(x, training=True), layer(x, training=True)

    (one, two), _ = Model().init_with_output({"params": KEY, "dropout": KEY}, X)
    assert np.abs(one - two).max() > 0.01
    layer = gruflax.GRU(5, dropout=0.5, return_sequences=True, recurrent_initializer="zeros")
    constant = np.repeat(X[:, :1], 7, axis=1)
    params = params_of(layer, X)
    params["recurrent_kernel"] *= 0
    outputs = layer.apply({"params": params}, constant, training=True, rngs={"dropout": KEY})
    change = np.diff(outputs, axis=1)
    # The same masked input at every step moves the state along one line.
    assert (np.sign(change) == np.sign(change[:, :1])).all()


def test_unrolled_cells_drop_what_scanned_cells_drop():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    found = []
    for unroll in (False, True):
        layer = gruflax.RNN(OwnStep(4, dropout=0.5, recurrent_dropout=0.5), unroll=unroll)
        variables = layer.init(jax.random.key(0), x)
        found.append(layer.apply(variables, x, training=True, rngs={"dropout": jax.random.key(1)}))
        assert np.abs(found[-1] - layer.apply(variables, x)).max() > 1e-3
    np.testing.assert_allclose(*found, atol=1e-6)
