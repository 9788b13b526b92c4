"""What the fields of a GRU mean."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from gruflax.layers.fields import (
    LOOP_FIELDS,
    axis_names,
    config_of,
    initializer_of,
    is_random,
    option,
    resolve_loop,
    settle_gru_fields,
    settle_layer_fields,
)


def fields(**others):
    """A module with the fields of a GRU, and nothing else."""
    defaults = {
        "units": 4,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "reset_after": True,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "implementation": 2,
        "return_state": False,
        "stateful": False,
        "activity_regularizer": None,
    }
    defaults |= dict.fromkeys(LOOP_FIELDS, False)
    for role in ("kernel", "recurrent", "bias"):
        for kind in ("initializer", "regularizer", "constraint"):
            defaults[f"{role}_{kind}"] = None
    return SimpleNamespace(**(defaults | others))


def test_options_are_found_by_parameter():
    module = fields(recurrent_constraint="non_neg", kernel_regularizer="l2")
    assert option(module, "recurrent_kernel", "constraint") is not None
    assert option(module, "kernel", "constraint") is None
    assert option(module, "kernel", "regularizer")(jnp.full(1, 2.0)) == pytest.approx(0.04)
    assert option(module, "initial_state", "regularizer") is None


def test_initializers_have_keras_defaults():
    drawn = initializer_of(fields(), "kernel")(jax.random.key(0), (4, 12), "float32")
    assert 0.3 < abs(drawn).max() <= (6 / 16) ** 0.5
    zeros = initializer_of(fields(), "initial_state")(jax.random.key(0), (4,), "float32")
    assert not zeros.any()


def test_axis_names_follow_the_rank():
    assert axis_names("kernel", 2) == ("features", "gates")
    assert axis_names("bias", 2) == (None, "gates")
    assert axis_names("bias", 1) == ("gates",)


def test_config():
    module = fields(activation="relu", reset_after=False, zoneout=0.2, implementation=1)
    config = config_of(module)
    assert (config.reset_after, config.zoneout, config.implementation) == (False, 0.2, 1)
    assert config.learn_initial_state is False


@pytest.mark.parametrize("rate", ["dropout", "recurrent_dropout", "zoneout"])
def test_drops(rate):
    assert is_random(fields(**{rate: 0.1}))
    assert not is_random(fields())


def settle(layer):
    settle_gru_fields(layer)
    settle_layer_fields(layer)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"units": 0}, ValueError, "units must be a positive integer, got 0"),
        ({"activation": "fast"}, ValueError, "fast"),
        ({"bias_constraint": "tight"}, ValueError, "tight"),
        ({"kernel_initializer": 3}, TypeError, "3"),
        ({"use_bias": "no"}, TypeError, "use_bias must be a Python bool, True or False, got 'no'"),
        ({"param_dtype": "int32"}, TypeError, "param_dtype must be a floating dtype, got 'int32'"),
        ({"seed": "x"}, TypeError, "seed must be an integer or None, got 'x'"),
        (
            {"stateful": True, "learn_initial_state": True},
            ValueError,
            "learn_initial_state must be False where stateful=True",
        ),
    ],
)
def test_wrong_fields(wrong, error, message):
    settle(fields())
    with pytest.raises(error, match=message):
        settle(fields(**wrong))


def test_use_cudnn():
    assert resolve_loop(True, "scan") == "cudnn"
    assert resolve_loop("auto", "scan") == resolve_loop(False, "scan") == "scan"
    with pytest.raises(ValueError, match="use_cudnn must be one of .*got 'yes'"):
        resolve_loop("yes", "scan")
