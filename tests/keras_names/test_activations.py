"""Activations against Keras' own, by every name."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from gruflax.functional.activations import ACTIVATIONS
from gruflax.keras_names import activations


X = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32) * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"sparsemax"}))
def test_values(name):
    ours = activations.get(name)(jnp.asarray(X))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = keras.activations.get(name)(X)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.dtype == np.float32


def test_sparsemax_is_the_projection_onto_the_simplex():
    # Keras 3.15's own rows do not sum to 1.
    ours = activations.get("sparsemax")(jnp.asarray(X))
    with jax.numpy_dtype_promotion("standard"):
        wanted = jax.vmap(optax.projections.projection_simplex)(jnp.asarray(X))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_allclose(ours.sum(axis=-1), np.ones(4), atol=1e-6)


def test_every_name_of_keras_that_keeps_the_units():
    known = set(keras.src.activations.ALL_OBJECTS_DICT)
    # glu halves the units; threshold has no default.
    assert known - {"glu", "threshold"} == set(ACTIVATIONS)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_dtype_is_kept(name):
    x = jnp.asarray(X, jnp.bfloat16)
    assert activations.get(name)(x).dtype == jnp.bfloat16


def test_float64_is_kept(x64):
    for name in ACTIVATIONS:
        assert activations.get(name)(jnp.asarray(X, "float64")).dtype == np.float64


def test_accepted_forms():
    sigmoid = ACTIVATIONS["hard_sigmoid"]
    serialized = {
        "module": "builtins",
        "class_name": "function",
        "config": "hard_sigmoid",
        "registered_name": "function",
    }
    for form in ("hard_sigmoid", "HardSigmoid", serialized, sigmoid):
        assert activations.get(form) is sigmoid
    assert activations.get(None) is ACTIVATIONS["linear"]
    assert activations.get(jnp.sin) is jnp.sin


def test_serialized_names():
    assert activations.serialize("HardSigmoid") == "hard_sigmoid"
    assert activations.serialize(None) == "linear"
    assert activations.serialize(jnp.tanh) == "tanh"
    assert activations.serialize(jnp.sin) is jnp.sin


@pytest.mark.parametrize("form, error", [("nope", ValueError), (3, TypeError), ({}, ValueError)])
def test_unknown_forms(form, error):
    if form == {}:
        form = {"class_name": "Nope", "config": {}}
    with pytest.raises(error, match="activation must be"):
        activations.get(form)


@pytest.mark.parametrize("form", [{"class_name": "HardSigmoid"}, {"class_name": "hard_sigmoid"}])
def test_old_configs_load(form):
    assert activations.get(form | {"config": {}}) is ACTIVATIONS["hard_sigmoid"]


@pytest.mark.parametrize("form", [{}, {"class_name": "function"}, {"class_name": 3}])
def test_malformed_configs_are_no_linear(form):
    with pytest.raises(ValueError, match="config of activation must name a function"):
        activations.get(form)


def test_arguments_are_not_dropped():
    with pytest.raises(ValueError, match="LeakyReLU has unknown keys, got .*negative_slope"):
        activations.get({"class_name": "LeakyReLU", "config": {"negative_slope": 0.5}})
