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


LAYERS = {
    "LeakyReLU": ({}, {"negative_slope": 0.1}),
    "ELU": ({"alpha": 0.7},),
    "ReLU": (
        {"negative_slope": 0.1},
        {"max_value": 2.0},
        {"max_value": 4.0, "negative_slope": 0.1, "threshold": 0.5},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    """Keras' layers as activations, in its configs and back."""
    for arguments in LAYERS[name]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            layer = getattr(keras.layers, name)(**arguments)
            wanted = layer(X)
        found = activations.identify(
            keras.layers.GRU(3, activation=layer).get_config()["activation"]
        )
        np.testing.assert_array_equal(found(jnp.asarray(X)), wanted)
        gru = keras.layers.GRU(3, activation=activations.serialize(found))
        assert type(gru.activation) is type(layer)
        assert activations.identify(gru.get_config()["activation"]) == found


def test_layers_that_have_a_name():
    layers = keras.layers
    for layer, name in (
        (layers.LeakyReLU(negative_slope=0.2), "leaky_relu"),
        (layers.ELU(), "elu"),
        (layers.ReLU(), "relu"),
        (layers.ReLU(max_value=6), "relu6"),
        (layers.Softmax(), "softmax"),
        (layers.Activation("relu"), "relu"),
        (layers.Activation(layers.Softmax()), "softmax"),
    ):
        config = keras.layers.GRU(3, activation=layer).get_config()["activation"]
        assert activations.identify(config) == name


def test_layers_of_keras_2():
    old = {"name": "layer", "trainable": True, "dtype": "float32"}

    def read(name, **arguments):
        return activations.identify({"class_name": name, "config": old | arguments})

    assert read("LeakyReLU", alpha=0.25) == activations.LeakyReLU(0.25)
    x = jnp.array([-1.0, 0.5, 0.7, 0.9])
    np.testing.assert_array_equal(read("ThresholdedReLU", theta=0.7)(x), [0, 0, 0, x[3]])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (("LeakyReLU", {"slope": 0.5}), "LeakyReLU has unknown keys, got .*slope"),
        (("ELU", {"alpha": "much"}), "ELU has unknown keys, got .*much"),
        (("relu", {"alpha": 0.5}), "relu has unknown keys, got .*alpha"),
        (("PReLU", {"shared_axes": None}), "must have no weights of its own, got the layer PReLU"),
        (("Softmax", {"axis": 0}), "axis of the activation Softmax must be .*units, got 0"),
        (("ELU", 3), "must name a function"),
    ],
)
def test_arguments_are_not_dropped(config, message):
    with pytest.raises(ValueError, match=message):
        activations.get(dict(zip(("class_name", "config"), config, strict=True)))
