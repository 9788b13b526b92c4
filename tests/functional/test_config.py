"""GRUConfig: static, hashable, and strict about its values."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import pytest

from gruflax import GRUConfig, gru_cell_step, init_gru_params
from gruflax.functional.activations import is_pointwise


def test_frozen_and_hashable():
    assert hash(GRUConfig(activation=jnp.tanh)) == hash(GRUConfig(activation=jnp.tanh))
    assert GRUConfig() == GRUConfig(dropout=0) != GRUConfig(dropout=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRUConfig().dropout = 0.5  # type: ignore[misc]


def test_recurrent_dropout_makes_implementation_one():
    assert GRUConfig(implementation=2).dropout_mask_count == 1
    assert GRUConfig(recurrent_dropout=0.1).implementation == 1
    assert GRUConfig(recurrent_dropout=0.1).dropout_mask_count == 3


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dropout": 1.5}, ValueError, r"dropout must be in \[0, 1\], got 1.5"),
        ({"recurrent_dropout": -0.1}, ValueError, r"recurrent_dropout must be in .*, got -0.1"),
        ({"dropout": None}, TypeError, r"dropout must be a number in \[0, 1\], got None"),
        ({"implementation": 3}, ValueError, "implementation must be 1 or 2, got 3"),
        ({"activation": "nope"}, ValueError, "'tanh'.*got 'nope'"),
        ({"recurrent_activation": 3}, TypeError, "3"),
    ],
)
def test_bad_values_raise(options, error, message):
    with pytest.raises(error, match=message):
        GRUConfig(**options)


@pytest.mark.parametrize(
    "activation", ["gelu", "leaky_relu", "tanh", jnp.tanh, None, "HardSigmoid"]
)
def test_equal_configs_are_equal_and_copies_are(activation):
    config = GRUConfig(activation=activation)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config and hash(other) == hash(config)
        assert is_pointwise(other.activation)
    assert GRUConfig(activation="tanh") == GRUConfig(activation=jnp.tanh)
    assert GRUConfig(activation="swish") == GRUConfig(activation=jax.nn.silu)
    assert hash(GRUConfig(activation="swish")) == hash(GRUConfig(activation=jax.nn.silu))


def test_an_activation_of_pythons_numbers_takes_the_dtype():
    config = GRUConfig(recurrent_activation=lambda x: jnp.where(x > 0, 1.0, 0.0))
    params = init_gru_params(jax.random.key(0), 3, 4, config, dtype=jnp.bfloat16)
    state, _ = gru_cell_step(params, None, jnp.ones((2, 3), jnp.bfloat16), config=config)
    assert state.dtype == jnp.bfloat16
