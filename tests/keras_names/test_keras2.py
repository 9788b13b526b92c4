"""How Keras 2 is told from Keras 3, and what its names mean."""

import jax
import keras
import pytest

import gruflax
from gruflax.compat import v1
from gruflax.keras_names import keras2


@pytest.mark.filterwarnings("ignore")
def test_configs():
    new = (
        keras.layers.GRU(3),
        keras.layers.GRUCell(3),
        gruflax.GRU(3, implementation=1, time_major=True),
        gruflax.GRUCell(3, implementation=1),
    )
    assert not any(keras2.has_arguments(layer.get_config()) for layer in new)
    assert not keras2.has_arguments({"units": 3})
    for layer in (v1.GRU(3), v1.GRUCell(3)):
        assert keras2.has_arguments(layer.get_config())


@pytest.mark.parametrize("version", ["2.0.0", b"2.2.4-tf", "2.15.0", "2.18.0rc0", "1.2.2", None])
def test_versions_of_keras_2(version):
    assert keras2.is_version(version)


@pytest.mark.parametrize("version", ["3.0.0", b"3.15.1", "10.0"])
def test_later_versions(version):
    assert not keras2.is_version(version)


@pytest.mark.parametrize("version", ["new", ".5", b"\xff"])
def test_what_is_no_version(version):
    with pytest.raises(ValueError, match="keras_version must be like"):
        keras2.is_version(version)


def test_meanings():
    given = {
        "units": 3,
        "activation": {"class_name": "function", "config": "hard_sigmoid"},
        "recurrent_activation": "HardSigmoid",
    }
    found = keras2.meant(given)
    assert found["activation"] is found["recurrent_activation"] is v1.hard_sigmoid
    assert found["units"] == 3 and given["recurrent_activation"] == "HardSigmoid"
    same = {"activation": jax.nn.hard_sigmoid, "recurrent_activation": "sigmoid"}
    assert keras2.meant(same) == same
    assert keras2.meant({"activation": None}) == {"activation": None}
    with pytest.raises(ValueError, match="^activation must be one of .*, got 'of_sin'"):
        keras2.meant({"activation": "of_sin"})
