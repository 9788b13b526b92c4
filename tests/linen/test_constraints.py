"""Constraints: found in a model, applied after the update."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cells import OwnStep
from flax import linen as nn

import gruflax
from gruflax.keras_names.constraints import MaxNorm, MinMaxNorm
from gruflax.linen.training import collect_constraints


X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
KEY = jax.random.key(0)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, training=False):
        gru = gruflax.GRU(
            5, kernel_constraint=MaxNorm(0.5), bias_constraint="non_neg", dropout=0.1, name="gru"
        )
        # To Flax a module belongs to the compact method that makes it, here the model's.
        cell = gruflax.GRUCell(4, recurrent_constraint=MinMaxNorm(0.2, 0.4, axis=1), name="cell")
        x = nn.Dense(5)(gru(x, training=training))[:, None]
        return gruflax.RNN(cell, name="rnn")(x)


def constraints_by_path(*args, **kwargs):
    notes = collect_constraints(*args, **kwargs)
    return {path: found for path, (found, _) in notes.items() if found is not None}


def test_found_by_path_without_computing():
    found = constraints_by_path(Model(), jax.ShapeDtypeStruct(X.shape, X.dtype), training=True)
    assert found == {
        ("gru", "kernel"): MaxNorm(0.5),
        ("gru", "bias"): gruflax.keras_names.constraints.NonNeg(),
        ("cell", "recurrent_kernel"): MinMaxNorm(0.2, 0.4, axis=1),
    }


def test_applied_after_the_update():
    params = Model().init(KEY, X)["params"]
    plain = optax.sgd(1.0)
    optimizer = optax.chain(plain, gruflax.constraints(Model(), X))
    gradients = jax.tree.map(lambda leaf: jnp.cos(37 * leaf + 1), params)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    got = optax.apply_updates(params, updates)
    free = jax.tree.map(lambda leaf, gradient: leaf - gradient, params, gradients)
    wanted = dict(free)
    wanted["gru"] = free["gru"] | {
        "kernel": MaxNorm(0.5)(free["gru"]["kernel"]),
        "bias": jax.nn.relu(free["gru"]["bias"]),
    }
    recurrent = MinMaxNorm(0.2, 0.4, axis=1)(free["cell"]["recurrent_kernel"])
    wanted["cell"] = free["cell"] | {"recurrent_kernel": recurrent}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, wanted)
    assert np.linalg.norm(got["gru"]["kernel"], axis=0).max() < 0.5 + 1e-5
    assert np.linalg.norm(free["gru"]["kernel"], axis=0).max() > 0.6
    norms = np.linalg.norm(got["cell"]["recurrent_kernel"], axis=1)
    assert norms.min() > 0.2 - 1e-5 and norms.max() < 0.4 + 1e-5
    assert (got["gru"]["bias"] >= 0).all()


def test_members_of_an_ensemble_are_constrained_one_by_one():
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    vmapped = nn.vmap(gruflax.GRU, **axes, in_axes=None, axis_size=3)
    ensemble = vmapped(5, kernel_constraint="unit_norm", name="gru")
    params = ensemble.init(KEY, X)["params"]
    transformation = gruflax.constraints(ensemble, X)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zeros, transformation.init(params), params)
    got = optax.apply_updates(params, updates)
    np.testing.assert_allclose(np.linalg.norm(got["kernel"], axis=1), np.ones((3, 15)), atol=1e-5)


def test_errors():
    transformation = gruflax.constraints(Model(), X)
    with pytest.raises(
        ValueError, match=r"params must hold the constrained weights .*'gru', 'bias'"
    ):
        transformation.init({"dense": X})
    params = Model().init(KEY, X)["params"]
    with pytest.raises(ValueError, match="params must be given to update"):
        transformation.update(params, transformation.init(params))


def test_a_model_without_constraints_is_left_alone():
    model = gruflax.GRU(5)
    params = model.init(KEY, X)["params"]
    transformation = gruflax.constraints(model, X)
    updates, _ = transformation.update(params, transformation.init(params), params)
    chex.assert_trees_all_equal(updates, params)


CONSTRAINED = {"kernel_constraint": "non_neg", "bias_constraint": "non_neg"}
OVER_MODELS = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


def scanned(layer):
    """Four layers as one, by nn.scan of a function."""
    run = nn.scan(lambda layer, x: (layer(x), None), length=4, **OVER_MODELS)
    return lambda x: run(layer, x)[0]


def chosen(module):
    """A layer in the branches of nn.cond."""

    def branch(module, x):
        return gruflax.GRU(3, **CONSTRAINED, name="gru")(x)

    return lambda x: nn.cond(True, branch, branch, module, x)


LIFTED = {
    "remat": lambda module: nn.remat(gruflax.GRU)(3, **CONSTRAINED),
    "jit": lambda module: nn.jit(gruflax.GRU)(3, **CONSTRAINED),
    "vmap": lambda module: nn.vmap(gruflax.GRU, in_axes=None, axis_size=2, **OVER_MODELS)(
        3, **CONSTRAINED
    ),
    "nn.RNN": lambda module: nn.RNN(gruflax.GRUCell(3, **CONSTRAINED)),
    "own step": lambda module: gruflax.RNN(OwnStep(3, **CONSTRAINED)),
    "remat of a function": lambda module: (
        lambda x: nn.remat(lambda layer, x: layer(x))(gruflax.GRU(3, **CONSTRAINED), x)
    ),
    "jit of a function": lambda module: (
        lambda x: nn.jit(lambda layer, x: layer(x))(gruflax.GRU(3, **CONSTRAINED), x)
    ),
    "scan of a function": lambda module: scanned(
        nn.remat(gruflax.GRU)(3, return_sequences=True, **CONSTRAINED)
    ),
    "cond": chosen,
}


@pytest.mark.parametrize("lifted", LIFTED)
def test_lifted_layers_are_constrained_and_their_parents_are_not(lifted):
    class Parent(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.ones, (3, 9))
            return LIFTED[lifted](self)(x), kernel

    params = Parent().init(KEY, X)["params"]
    transformation = gruflax.constraints(Parent(), X)
    down = jax.tree.map(lambda leaf: -1.0 - jnp.abs(leaf), params)
    updates, _ = transformation.update(down, transformation.init(params), params)
    got = optax.apply_updates(params, updates)
    for path, leaf in jax.tree_util.tree_leaves_with_path(got):
        names = [entry.key for entry in path]
        constrained = len(names) > 1 and names[-1] in ("kernel", "bias")
        assert (leaf.min() >= 0) == constrained, names


def test_a_bias_that_is_not_there_is_not_constrained():
    layer = gruflax.GRU(5, use_bias=False, bias_constraint="non_neg", kernel_constraint="non_neg")
    assert set(constraints_by_path(layer, X)) == {("kernel",)}


def test_flags_and_shapes_of_the_call():
    class Positional(nn.Module):
        @nn.compact
        def __call__(self, x, training, mask=None):
            return gruflax.GRU(5, **CONSTRAINED, dropout=0.5)(x, training=training, mask=mask)

    x, mask = jax.ShapeDtypeStruct(X.shape, X.dtype), jax.ShapeDtypeStruct(X.shape[:2], bool)
    assert len(constraints_by_path(Positional(), x, True, mask=mask)) == 2


def test_modules_of_users_are_their_own_whatever_they_are_called():
    class Model(nn.Module):
        kernel_constraint: object = 3.0

        def setup(self):
            self.probe = gruflax.GRU(4, kernel_constraint="max_norm")
            self.kernel = nn.Dense(3)

        def __call__(self, x):
            return self.probe(self.kernel(x))

    params = Model().init(KEY, X)["params"]
    transformation = gruflax.constraints(Model(), X)
    up = jax.tree.map(lambda leaf: jnp.full_like(leaf, 9.0), params)
    updates, _ = transformation.update(up, transformation.init(params), params)
    got = optax.apply_updates(params, updates)
    norms = jnp.linalg.norm(got["probe"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, 2.0, rtol=1e-5)
    assert (got["kernel"]["kernel"] > 7).all()
