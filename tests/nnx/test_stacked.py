"""Stacked cells as one NNX cell."""

import jax
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
MASK = np.random.default_rng(1).random((3, 6)) < 0.6
RNGS = nnx.Rngs(0)
FIELDS = {"bias_initializer": "random_normal", "rngs": RNGS}


def cells():
    return [grunnx.GRUCell(4, 5, **FIELDS), grunnx.GRUCell(5, 3, reset_after=False, **FIELDS)]


OPTIONS = {
    "last": {},
    "sequences": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "zeros": {"zero_output_for_mask": True, "return_sequences": True},
    "unrolled": {"unroll": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_list_of_cells_is_what_linen_makes_of_it(name):
    layer = grunnx.RNN(cells(), **OPTIONS[name])
    theirs = gruflax.RNN(
        [gruflax.GRUCell(5), gruflax.GRUCell(3, reset_after=False)], **OPTIONS[name]
    )
    variables = grunnx.to_linen_variables(layer)
    assert set(variables["params"]["cell"]) == {"cells_0", "cells_1"}
    got, wanted = layer(X, mask=MASK), theirs.apply(variables, X, mask=MASK)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), got, wanted)
    again = grunnx.RNN(cells(), **OPTIONS[name])
    grunnx.from_linen_variables(again, variables)
    jax.tree.map(np.testing.assert_array_equal, again(X, mask=MASK), got)


def test_steps_are_those_of_the_loop():
    stack = grunnx.StackedRNNCells(cells())
    carry, outputs = stack.initialize_carry(X[:, 0].shape), []
    assert [state.shape for state in carry] == [(3, 5), (3, 3)]
    for index in range(X.shape[1]):
        carry, output = stack(carry, X[:, index])
        outputs.append(output)
    got = grunnx.RNN(stack, return_sequences=True)(X)
    np.testing.assert_allclose(got, np.stack(outputs, axis=1), atol=1e-6)
    np.testing.assert_allclose(nnx.RNN(stack)(X), got, atol=1e-6)


def test_other_cells_and_both_directions():
    rngs = nnx.Rngs(0)
    mixed = grunnx.RNN([nnx.LSTMCell(4, 5, rngs=rngs), grunnx.GRUCell(5, 3, rngs=rngs)])
    assert mixed(X).shape == (3, 3)
    both = grunnx.Bidirectional(grunnx.RNN(cells(), return_sequences=True), rngs=rngs)
    outputs = both(X, mask=MASK)
    assert outputs.shape == (3, 6, 6)
    assert np.abs(outputs[..., :3] - outputs[..., 3:]).max() > 1e-2


def test_a_key_is_split_among_the_cells():
    rngs = nnx.Rngs(0)
    layer = grunnx.RNN([grunnx.GRUCell(4, 4, dropout=0.5, rngs=rngs) for _ in range(2)])
    one, two = (layer(X, rngs=jax.random.key(key)) for key in (1, 2))
    np.testing.assert_array_equal(one, layer(X, rngs=jax.random.key(1)))
    assert np.abs(one - two).max() > 1e-3
    state = (np.ones((3, 4), np.float32),) * 2
    _, output = layer.cell(state, X[:, 0], rngs=jax.random.key(1))
    _, dropped = layer.cell(state, X[:, 0], deterministic=True)
    assert np.abs(output - dropped).max() > 1e-3


def test_errors():
    with pytest.raises(TypeError, match="cells must be a list of one cell or more, got a list"):
        grunnx.StackedRNNCells([])
    with pytest.raises(TypeError, match=r"cells\[1\] must be a flax.nnx.RNNCellBase, .*got GRU"):
        grunnx.StackedRNNCells([cells()[0], grunnx.GRU(5, 3, rngs=RNGS)])
    with pytest.raises(ValueError, match="carry must be a tuple or list of 2 states, got 1"):
        grunnx.StackedRNNCells(cells())([X[:, 0]], X[:, 0])
    learned = grunnx.GRUCell(4, 5, learn_initial_state=True, rngs=RNGS)
    with pytest.raises(ValueError, match="learn_initial_state must be False where stateful=True"):
        grunnx.RNN([learned], stateful=True)
