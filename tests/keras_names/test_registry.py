"""Look-up and serialisation of initializers, regularizers and constraints."""

import json

import jax.numpy as jnp
import keras
import pytest
from flax.core import freeze

from gruflax.keras_names import constraints, initializers, regularizers


KINDS = {
    "initializers": (initializers, "glorot_uniform", initializers.GlorotUniform()),
    "regularizers": (regularizers, "l2", regularizers.L2()),
    "constraints": (constraints, "max_norm", constraints.MaxNorm()),
}


def classes(module):
    return [cls() for cls in module._CLASSES]


@pytest.mark.parametrize("kind", KINDS)
def test_accepted_forms(kind):
    module, name, wanted = KINDS[kind]
    camel = type(wanted).__name__
    assert module.get(None) is None
    forms = [name, camel, type(wanted), wanted, {"class_name": camel, "config": {}}]
    forms += [{"class_name": name}, module.serialize(wanted), freeze(module.serialize(wanted))]
    for form in forms:
        assert module.get(form) == wanted, form
    assert module.get(jnp.sin) is jnp.sin
    assert module.serialize(jnp.sin) is jnp.sin
    assert module.serialize(None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips_through_keras(kind):
    module, _, _ = KINDS[kind]
    keras_module = getattr(keras, kind)
    for ours in classes(module):
        config = module.serialize(ours)
        assert module.get(config) == ours and hash(ours) == hash(module.get(config))
        theirs = keras_module.deserialize(config)
        assert type(theirs).__name__ == type(ours).__name__
        again = module.serialize(module.get(keras_module.serialize(theirs)))["config"]
        assert again.keys() == config["config"].keys()
        for key, value in config["config"].items():
            # Keras keeps the factors of its regularizers in float32.
            close = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            assert again[key] == close, key


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_of_keras(kind):
    module, _, _ = KINDS[kind]
    known = {type(ours).__name__ for ours in classes(module)} | set(module._REGISTRY.aliases)
    theirs = {
        name
        for name in getattr(keras.src, kind).ALL_OBJECTS_DICT
        if name[0].isupper() and not name.startswith("STFT")
    }
    assert theirs - {"Initializer", "Regularizer", "Constraint"} <= known


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    module, name, _ = KINDS[kind]
    singular = kind[:-1]
    with pytest.raises(ValueError, match=f"{singular} must be one of .*, got 'nope'"):
        module.get("nope")
    with pytest.raises(TypeError, match=f"{singular} must be a name.*, got 3"):
        module.get(3)
    with pytest.raises(ValueError, match=r"has unknown keys \['speed'\]"):
        module.get({"class_name": name, "config": {"speed": 1}})
    for malformed in (
        {},
        {"config": {}},
        {"class_name": [name]},
        {"class_name": name, "config": 1},
    ):
        with pytest.raises(ValueError, match="must have a 'class_name' and a dict as 'config'"):
            module.get(malformed)
    # An int is a class, but its instances cannot be called.
    with pytest.raises(TypeError, match=f"{singular} must be a name"):
        module.get(int)


@pytest.mark.parametrize(
    "alias, wanted",
    [
        ("zero", initializers.Zeros()),
        ("one", initializers.Ones()),
        ("normal", initializers.RandomNormal()),
        ("uniform", initializers.RandomUniform()),
        ("OrthogonalInitializer", initializers.Orthogonal()),
        ("IdentityInitializer", initializers.Identity()),
    ],
)
def test_initializer_aliases(alias, wanted):
    assert initializers.get(alias) == wanted


def test_l1_l2_is_tensorflows_and_l1l2_keras():
    assert regularizers.get("l1_l2") == regularizers.L1L2(0.01, 0.01)
    assert regularizers.get("l1l2") == regularizers.L1L2(0.0, 0.0)
    config = {"class_name": "l1_l2", "config": {"l1": 0.5}}
    assert regularizers.get(config) == regularizers.L1L2(0.5, 0.0)


def test_tensorflow_1_configs_load():
    config = {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}
    assert initializers.get(config) == initializers.GlorotUniform()


def test_fan_axes_load_only_unset():
    config = {"seed": 3, "input_axes": None, "output_axes": None}
    named = {"class_name": "GlorotUniform", "config": config}
    assert initializers.get(named) == initializers.GlorotUniform(3)
    named["config"] = {"input_axes": [1], "output_axes": [0]}
    with pytest.raises(ValueError, match=r"unknown keys \['input_axes', 'output_axes'\]"):
        initializers.get(named)


def test_axes_survive_json():
    ours = constraints.MaxNorm(axis=(0, 1))
    again = constraints.get(json.loads(json.dumps(constraints.serialize(ours))))
    assert again == ours and hash(again) == hash(ours)
