"""Config dicts: old forms, errors, and what Keras has no word for."""

import pickle

import jax
import jax.numpy as jnp
import keras
import pytest
from cells import OwnStep
from flax import linen as nn

import gruflax
from gruflax.compat import v1
from gruflax.keras_names.constraints import MaxNorm
from gruflax.keras_names.initializers import HeNormal


def test_round_trip_keeps_what_keras_does_not_write():
    fields = {
        "units": 3,
        "implementation": 1,
        "time_major": True,
        "use_cudnn": False,
        "loop": "scan",
        "precision": "highest",
        "seed": 4,
        "name": "encoder",
    }
    layer = gruflax.GRU(**fields)
    config = layer.get_config()
    assert {name: config[name] for name in fields} == fields
    again = gruflax.GRU.from_config(config)
    assert again.get_config() == config
    unwritten = {"implementation", "time_major", "use_cudnn", "loop", "precision"}
    assert not unwritten & set(gruflax.GRU(3).get_config())


def test_callables_stay_what_they_are():
    layer = gruflax.GRU(3, activation=jnp.sin, kernel_initializer=lambda key, shape, dtype: None)
    again = gruflax.GRU.from_config(layer.get_config())
    assert again.activation is jnp.sin
    assert again.kernel_initializer is layer.kernel_initializer


def test_tensorflow_1_config():
    config = {
        "name": "gru",
        "trainable": True,
        "batch_input_shape": (None, 5, 4),
        "dtype": "float32",
        "return_sequences": False,
        "time_major": True,
        "units": 3,
        "activation": "tanh",
        "recurrent_activation": "hard_sigmoid",
        "kernel_initializer": {
            "class_name": "GlorotUniform",
            "config": {"seed": None, "dtype": "float32"},
        },
        "kernel_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.5}},
        "implementation": 0,
        "reset_after": False,
    }
    layer = gruflax.GRU.from_config(config)
    assert (layer.units, layer.time_major, layer.reset_after, layer.implementation) == (
        3,
        True,
        False,
        1,
    )
    assert layer.kernel_initializer == "glorot_uniform"
    assert layer.kernel_regularizer == gruflax.keras_names.regularizers.L1L2(0.0, 0.5)


def test_errors():
    with pytest.raises(ValueError, match=r"config has unknown keys \['unit'\]; GRU has \["):
        gruflax.GRU.from_config({"unit": 3})
    with pytest.raises(ValueError, match="cell must be one of .*'GRUCell'.*, got 'LSTMCell'"):
        gruflax.RNN.from_config({"cell": {"class_name": "LSTMCell", "config": {}}})
    with pytest.warns(UserWarning, match="trainable=False is the optimiser's business"):
        gruflax.GRU.from_config({"units": 3, "trainable": False})


class OwnGRU(gruflax.GRU):
    """A subclass of the user's."""


@pytest.mark.parametrize(
    "layer",
    [OwnGRU(3, dropout=0.1), gruflax.Bidirectional(OwnGRU(3)), gruflax.RNN([OwnStep(3)])],
    ids=["layer", "pair", "cell"],
)
def test_subclasses_come_back(layer):
    again = type(layer).from_config(layer.get_config())
    assert again == layer and type(again) is type(layer)
    if isinstance(layer, gruflax.Bidirectional):
        assert type(again.layer) is OwnGRU


def test_config_of_the_functional_core():
    fields = {"activation": jax.nn.relu, "reset_after": False, "dropout": 0.1, "zoneout": 0.2}
    wanted = gruflax.GRUConfig(recurrent_activation=jax.nn.hard_sigmoid, **fields)
    named = {**fields, "activation": "relu", "recurrent_activation": "hard_sigmoid"}
    assert gruflax.GRU(4, **named).config == gruflax.GRUCell(4, **named).config == wanted


DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


@pytest.mark.parametrize("param_dtype", DTYPES)
@pytest.mark.parametrize("dtype", [None, *DTYPES])
def test_dtypes_come_back(dtype, param_dtype):
    for layer in (
        gruflax.GRU(3, dtype=dtype, param_dtype=param_dtype),
        gruflax.GRUCell(3, dtype=dtype, param_dtype=param_dtype),
    ):
        assert type(layer).from_config(layer.get_config()) == layer


def test_keras_reads_the_dtypes_that_it_has():
    layer = keras.layers.GRU.from_config(gruflax.GRU(3, dtype=jnp.float32).get_config())
    assert layer.compute_dtype == layer.variable_dtype == "float32"
    half = keras.layers.GRU.from_config(gruflax.GRU(3, dtype=jnp.bfloat16).get_config())
    assert (half.compute_dtype, half.variable_dtype) == ("bfloat16", "float32")


@pytest.mark.parametrize(
    "layer",
    [
        gruflax.GRU(3, activation="gelu", kernel_initializer=HeNormal(), dropout=0.1),
        gruflax.GRU(3, kernel_regularizer="l2", bias_constraint=MaxNorm(3), precision="highest"),
        gruflax.RNN([gruflax.GRUCell(3), gruflax.GRUCell(2)], return_sequences=True),
        gruflax.Bidirectional(gruflax.GRU(3, recurrent_initializer={"class_name": "Ones"})),
        # What only Keras 2 writes besides, and a name that Keras 2 has for another function.
        gruflax.GRU(3, recurrent_activation="hard_sigmoid", implementation=1, time_major=True),
        gruflax.GRU(3, recurrent_activation=v1.hard_sigmoid, implementation=1, time_major=True),
        gruflax.RNN(gruflax.GRUCell(3, recurrent_activation="hard_sigmoid", implementation=1)),
        gruflax.Bidirectional(gruflax.GRU(3, activation="hard_sigmoid", implementation=1)),
        v1.GRU(3),
        v1.GRUCell(3, activation="hard_sigmoid", implementation=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_makes_an_equal_layer(layer):
    assert type(layer).from_config(layer.get_config()) == layer
    assert pickle.loads(pickle.dumps(layer.get_config())) == layer.get_config()


def test_objects_and_their_names_are_one_thing():
    named = gruflax.GRU(3, kernel_initializer="he_normal", activation="tanh")
    assert gruflax.GRU(3, kernel_initializer=HeNormal(), activation=jnp.tanh) == named
    assert pickle.loads(pickle.dumps(named.config)) == named.config


@pytest.mark.parametrize("config", [{}, {"activation": "relu"}])
def test_what_has_no_default_must_be_there(config):
    with pytest.raises(ValueError, match=r"config of GRU must have \['units'\], got"):
        gruflax.GRU.from_config(config)


FUNCTION = {"module": "builtins", "class_name": "function", "registered_name": "function"}
INITIALIZER = {"class_name": "GlorotUniform", "config": {"seed": None}}
KERAS_2 = {
    "Keras 2.0": {"implementation": 0, "kernel_initializer": INITIALIZER},
    "TensorFlow 2.2": {"implementation": 2, "time_major": False, "reset_after": True},
    "tf-keras 2.15": {
        "implementation": 2,
        "time_major": False,
        "kernel_initializer": {
            "module": "keras.initializers",
            "registered_name": None,
            **INITIALIZER,
        },
        "recurrent_activation": FUNCTION | {"config": "hard_sigmoid"},
        "rng_type": "stateful",
    },
}


@pytest.mark.parametrize("cls", [gruflax.GRU, gruflax.GRUCell])
@pytest.mark.parametrize("release", KERAS_2)
def test_hard_sigmoid_of_keras_2(release, cls):
    config = {"units": 3, "recurrent_activation": "hard_sigmoid"} | KERAS_2[release]
    if cls is gruflax.GRUCell:
        config.pop("time_major", None)
    layer = cls.from_config(config)
    assert layer.recurrent_activation is v1.hard_sigmoid and layer.activation == "tanh"
    assert cls.from_config(layer.get_config()) == layer


def test_hard_sigmoid_of_keras_2_inside_other_configs():
    def entry(layer):
        return {"class_name": type(layer).__name__, "config": layer.get_config()}

    old, new = v1.GRUCell(3), gruflax.GRUCell(3, recurrent_activation="hard_sigmoid")
    stacked = {"cells": [entry(old), entry(new)]}
    rnn = {"class_name": "RNN", "config": {"cell": entry(old), "time_major": False}}
    first, second = gruflax.linen.StackedRNNCells.from_config(stacked).cells
    deep = gruflax.RNN.from_config({"cell": {"class_name": "StackedRNNCells", "config": stacked}})
    both = gruflax.Bidirectional.from_config(
        {"layer": entry(v1.GRU(3)), "backward_layer": entry(v1.GRU(3, go_backwards=True))}
    )
    cells = (first, deep.cell.cells[0], both.layer, both.backward_layer)
    cells += (gruflax.Bidirectional.from_config({"layer": rnn}).layer.cell,)
    assert all(cell.recurrent_activation is v1.hard_sigmoid for cell in cells)
    assert second == new


@pytest.mark.parametrize(
    "layer",
    [v1.GRU(3), v1.GRU(3, activation="hard_sigmoid"), v1.GRUCell(3)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_of_version_1_keeps_its_meaning(layer):
    assert layer.get_config()["recurrent_activation"] == "hard_sigmoid"
    cls = getattr(gruflax, type(layer).__name__)
    assert cls.from_config(layer.get_config()).config == layer.config


@pytest.mark.filterwarnings("ignore")
def test_hard_sigmoid_of_keras_3():
    theirs = keras.layers.GRU(3, recurrent_activation="hard_sigmoid")
    for config in (theirs.get_config(), {"units": 3, "recurrent_activation": "hard_sigmoid"}):
        assert gruflax.GRU.from_config(config).recurrent_activation == "hard_sigmoid"
    assert gruflax.GRUCell.from_config(theirs.cell.get_config()).config == gruflax.GRUConfig(
        recurrent_activation=jax.nn.hard_sigmoid
    )


class Foreign(nn.RNNCellBase):
    """A cell of a user's with a config of its own, which nobody knows by its name."""

    width: int

    def get_config(self):
        return {"width": self.width}


@pytest.mark.parametrize(
    "layer",
    [
        gruflax.RNN(Foreign(4)),
        gruflax.RNN([Foreign(4), gruflax.GRUCell(3)]),
        gruflax.Stack(
            [gruflax.GRU(4, return_sequences=True), gruflax.Bidirectional(gruflax.GRU(3))],
            dropout=0.25,
        ),
    ],
    ids=["foreign", "foreign and ours", "stack"],
)
def test_layers_of_layers_come_back(layer):
    assert type(layer).from_config(layer.get_config()) == layer
