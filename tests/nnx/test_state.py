"""Stateful NNX layers: what they keep, under which transformations, and how it is reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 6, 3)).astype(np.float32)
H0 = RANDOM.normal(size=(4, 5)).astype(np.float32)


def make(**options):
    options = {"stateful": True, "return_sequences": True, "loop": "scan"} | options
    return grunnx.GRU(3, 5, **options, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def whole():
    """Outputs and states over a sequence of two windows."""
    return gruflax.gru_sequence(make().params, np.concatenate([X, X], axis=1))


@nnx.jit
def call(layer, x):
    return layer(x)


def test_state_is_carried_under_jit(whole):
    layer = make()
    assert not hasattr(layer, "h")
    first = call(layer, X)
    assert isinstance(layer.h, grunnx.RecurrentState)
    second = call(layer, X)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole[0], atol=1e-6)
    np.testing.assert_allclose(layer.h.get_value(), whole[1], atol=1e-6)
    np.testing.assert_array_equal(nnx.state(layer, grunnx.RecurrentState)["h"][...], layer.h[...])


def test_state_is_that_of_linen():
    layer, linen = make(), gruflax.GRU(5, stateful=True, return_sequences=True, loop="scan")
    variables = grunnx.to_linen_variables(layer)
    for _ in range(2):
        wanted, new = linen.apply(variables, X, mutable=["recurrent_state"])
        variables |= new
        np.testing.assert_array_equal(layer(X), wanted)
    np.testing.assert_array_equal(layer.h[...], variables["recurrent_state"]["h"])


def test_initial_state_wins_and_the_result_is_stored():
    layer = make()
    layer(X)
    wanted, state = gruflax.gru_sequence(layer.params, X, initial_state=H0)
    np.testing.assert_allclose(layer(X, initial_state=H0), wanted, atol=1e-6)
    np.testing.assert_allclose(layer.h[...], state, atol=1e-6)


def test_resets_in_the_sequence_go_back_to_zeros_and_not_to_the_last_call(whole):
    layer = make()
    layer(X)
    reset = np.zeros((4, 6), bool)
    reset[:, 2] = True
    outputs = layer(X, reset=reset)
    fresh, _ = gruflax.gru_sequence(layer.params, X[:, 2:])
    np.testing.assert_allclose(outputs[:, 2:], fresh, atol=1e-6)
    np.testing.assert_allclose(outputs[:, :2], whole[0][:, 6:8], atol=1e-6)


def test_gradients_stop_at_the_window():
    layer = make()
    layer(X)
    state = layer.h.get_value()
    loss = nnx.jit(nnx.grad(lambda layer, x: (layer(x) ** 2).sum()))
    gradients = nnx.to_pure_dict(loss(layer, X))

    def pure(params):
        return (gruflax.gru_sequence(params, X, initial_state=state, loop="scan")[0] ** 2).sum()

    assert set(gradients) == {"kernel", "recurrent_kernel", "bias"}
    for name, wanted in jax.grad(pure)(layer.params).items():
        np.testing.assert_allclose(gradients[name], wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(layer.h.get_value() - state).max() > 0.01


def test_nnx_scan_over_windows_and_vmap_over_members(whole):
    layer = make()
    layer.init_state(X.shape)
    axes = nnx.StateAxes({nnx.Param: None, ...: nnx.Carry})
    windows = nnx.scan(lambda layer, x: layer(x), in_axes=(axes, 0), out_axes=0)
    outputs = windows(layer, jnp.stack([X, X]))
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole[0], atol=1e-6)

    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def members(rngs):
        return grunnx.GRU(3, 5, stateful=True, loop="scan", rngs=rngs)

    ensemble = members(nnx.Rngs(0))
    nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(ensemble, X)
    assert ensemble.h.shape == (2, 4, 5)


def test_several_states_of_a_cell_are_one_variable():
    cell = nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0))
    layer = grunnx.RNN(cell, stateful=True)
    call(layer, X)
    assert [state.shape for state in layer.h.get_value()] == [(4, 5), (4, 5)]
    wanted = grunnx.RNN(cell)(np.concatenate([X, X], axis=1))
    np.testing.assert_allclose(call(layer, X), wanted, atol=1e-6)
    layer.reset_states([H0, 2 * H0])
    np.testing.assert_array_equal(layer.h.get_value()[1], 2 * H0)


def test_reset_states_of_a_model():
    rngs = nnx.Rngs(0)
    layers = [make(), grunnx.RNN(grunnx.GRUCell(5, 2, rngs=rngs), stateful=True)]
    model = nnx.Sequential(*layers)
    first = model(X)
    assert np.abs(model(X) - first).max() > 1e-3
    nnx.jit(grunnx.reset_states)(model)
    np.testing.assert_allclose(model(X), first, atol=1e-6)
    grunnx.reset_states(model, [H0, H0[:, :2]])
    np.testing.assert_array_equal(layers[0].h[...], H0)
    np.testing.assert_array_equal(layers[1].h[...], H0[:, :2])
    with pytest.raises(ValueError, match="states must be 2 arrays, got 1"):
        grunnx.reset_states(model, [H0])


def test_errors():
    layer = make()
    with pytest.raises(ValueError, match="needs to know its batch size"):
        layer.reset_states()
    layer(X)
    with pytest.raises(ValueError, match=r"stored state must have shapes \[\(2, 5\)\]"):
        layer(X[:2])
    with pytest.raises(ValueError, match=r"states must have shapes \[\(4, 5\)\]"):
        layer.reset_states(H0[:2])
    plain = make(stateful=False)
    for method in (plain.reset_states, lambda: plain.init_state(X.shape)):
        with pytest.raises(AttributeError, match="Layer must be stateful"):
            method()


def test_a_changed_batch_size_names_the_remedy():
    layer = grunnx.GRU(3, 5, stateful=True, rngs=nnx.Rngs(0))
    layer(X)
    with pytest.raises(ValueError, match="keeps its batch size until forget_states"):
        layer(X[:1])
    grunnx.forget_states(layer)
    np.testing.assert_allclose(layer(X[:1]), gruflax.gru_sequence(layer.params, X[:1])[1])
