"""Variables to and from linen, by name and bit by bit."""

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
H0 = RANDOM.normal(size=(3, 5)).astype(np.float32)


def rngs():
    return nnx.Rngs(0)


@pytest.mark.parametrize(
    "make, linen",
    [
        (lambda: grunnx.GRU(4, 5, stateful=True, rngs=rngs()), gruflax.GRU(5, stateful=True)),
        (
            lambda: grunnx.GRU(4, 5, reset_after=False, param_dtype="bfloat16", rngs=rngs()),
            gruflax.GRU(5, reset_after=False, param_dtype="bfloat16"),
        ),
        (
            lambda: grunnx.RNN(grunnx.GRUCell(4, 5, use_bias=False, rngs=rngs()), stateful=True),
            gruflax.RNN(gruflax.GRUCell(5, use_bias=False), stateful=True),
        ),
    ],
)
def test_there_and_back(make, linen):
    variables = linen.init(jax.random.key(3), X)
    leaves, treedef = jax.tree.flatten(variables)
    drawn = [RANDOM.normal(size=leaf.shape).astype(leaf.dtype) for leaf in leaves]
    variables = jax.tree.unflatten(treedef, drawn)
    module = make()
    grunnx.from_linen_variables(module, variables)
    chex.assert_trees_all_equal(grunnx.to_linen_variables(module), variables)
    chex.assert_trees_all_equal_dtypes(grunnx.to_linen_variables(module), variables)
    with jax.numpy_dtype_promotion("standard"):
        wanted, _ = linen.apply(variables, X, mutable=["recurrent_state"])
        np.testing.assert_array_equal(module(X), wanted)


def test_nested_layers_and_states():
    def make(seed):
        streams = nnx.Rngs(seed)
        return grunnx.Bidirectional(grunnx.GRU(4, 5, stateful=True, rngs=streams), rngs=streams)

    one, two = make(0), make(1)
    one(X, initial_state=[H0, -H0])
    variables = grunnx.to_linen_variables(one)
    assert jax.tree.map(jnp.shape, variables["recurrent_state"]) == {
        "backward_layer": {"h": (3, 5)},
        "forward_layer": {"h": (3, 5)},
    }
    grunnx.from_linen_variables(two, variables)
    chex.assert_trees_all_equal(grunnx.to_linen_variables(two), variables)
    np.testing.assert_array_equal(two(X), one(X))


def test_several_states_of_a_cell():
    one, two = (
        grunnx.RNN(nnx.LSTMCell(4, 5, rngs=nnx.Rngs(seed)), stateful=True) for seed in (0, 1)
    )
    one(X)
    grunnx.from_linen_variables(two, grunnx.to_linen_variables(one))
    chex.assert_trees_all_equal(two.h.get_value(), one.h.get_value())


def test_wrong_variables():
    module = grunnx.GRU(4, 5, rngs=rngs())
    good = grunnx.to_linen_variables(module)["params"]
    for params in ({}, good | {"bias": good["bias"][0]}, good | {"gamma": H0}):
        with pytest.raises(ValueError, match=r"variables\['params'\] must be .*kernel.*\(4, 15\)"):
            grunnx.from_linen_variables(module, {"params": params})
    with pytest.raises(ValueError, match=r"'recurrent_state'\] has a state at \(\): not stateful"):
        grunnx.from_linen_variables(module, {"params": good, "recurrent_state": {"h": H0}})
