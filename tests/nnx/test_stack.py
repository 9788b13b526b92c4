"""Stacks of NNX layers: the numbers of the linen ones, and dropout in between."""

import jax
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
LENGTHS = np.array([6, 3, 1])


def layers(rngs, **options):
    pair = grunnx.Bidirectional(
        grunnx.GRU(4, 5, return_sequences=True, rngs=rngs, **options), rngs=rngs
    )
    top = grunnx.RNN([grunnx.GRUCell(10, 3, rngs=rngs), nnx.LSTMCell(3, 2, rngs=rngs)], **options)
    return [pair, grunnx.GRU(10, 10, return_sequences=True, rngs=rngs, **options), top]


@pytest.mark.parametrize("return_state", [False, True])
def test_layers_one_after_the_other(return_state):
    parts = layers(nnx.Rngs(0), return_state=return_state)
    stack = grunnx.Stack(parts)
    got, wanted = stack(X, seq_lengths=LENGTHS), X
    states = []
    for part in parts:
        wanted = part(wanted, seq_lengths=LENGTHS)
        if return_state:
            states.append(wanted[1:])
            wanted = wanted[0]
    if return_state:
        got, given = got
        jax.tree.map(np.testing.assert_array_equal, given, tuple(states))
        again, _ = stack(X, seq_lengths=LENGTHS, initial_state=given)
        assert np.abs(again - got).max() > 1e-3
    np.testing.assert_array_equal(got, wanted)


def test_the_weights_are_linens():
    rngs = nnx.Rngs(0)
    stack = grunnx.Stack(
        [grunnx.GRU(4, 5, return_sequences=True, rngs=rngs), grunnx.GRU(5, 3, rngs=rngs)]
    )
    linen = gruflax.Stack([gruflax.GRU(5, return_sequences=True), gruflax.GRU(3)])
    variables = grunnx.to_linen_variables(stack)
    assert set(variables["params"]) == {"layers_0", "layers_1"}
    np.testing.assert_array_equal(linen.apply(variables, X), stack(X))


def test_dropout_between_the_layers():
    rngs = nnx.Rngs(0)
    parts = [grunnx.GRU(4, 64, return_sequences=True, rngs=rngs), grunnx.GRU(64, 3, rngs=rngs)]
    stack = grunnx.Stack(parts, dropout=0.5, rngs=rngs)
    key, plain = jax.random.key(1), parts[1](parts[0](X))
    np.testing.assert_array_equal(stack(X, deterministic=True), plain)
    np.testing.assert_array_equal(stack(X, rngs=key), stack(X, rngs=key))
    assert np.abs(stack(X) - stack(X)).max() > 1e-3
    assert np.abs(stack(X, rngs=key) - plain).max() > 1e-3
    stack.eval()
    np.testing.assert_array_equal(stack(X), plain)
    assert nnx.jit(lambda stack, x: stack(x))(stack, X).shape == (3, 3)


def test_states_of_many_layers_are_taken_in_the_order_of_the_layers():
    rngs = nnx.Rngs(0)
    options = {"stateful": True, "return_sequences": True, "rngs": rngs}
    stack = grunnx.Stack([grunnx.GRU(2, 2, **options) for _ in range(12)])
    stack(X[..., :2])
    grunnx.reset_states(stack, [np.full((3, 2), index, np.float32) for index in range(12)])
    for index, layer in enumerate(stack.layers):
        np.testing.assert_array_equal(layer.h.get_value(), np.full((3, 2), index))


def test_errors():
    rngs = nnx.Rngs(0)
    sequence = grunnx.GRU(4, 4, return_sequences=True, rngs=rngs)
    with pytest.raises(TypeError, match="layers must be a list of one layer or more, .*, got GRU"):
        grunnx.Stack(sequence)
    with pytest.raises(TypeError, match=r"layers\[1\] must be a gruflax.nnx.GRU, .*, got GRUCell"):
        grunnx.Stack([sequence, grunnx.GRUCell(4, 4, rngs=rngs)])
    with pytest.raises(TypeError, match="rngs must be an nnx.Rngs with a 'dropout' stream"):
        grunnx.Stack([sequence, sequence], dropout=0.1)
    with pytest.raises(ValueError, match="of one entry for each of 1 layers, got 2"):
        grunnx.Stack([sequence])(X, initial_state=[None, None])
    with pytest.raises(TypeError, match="Stack has no argument training"):
        grunnx.Stack([sequence])(X, training=True)
