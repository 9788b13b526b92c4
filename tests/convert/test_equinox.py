"""equinox.nn.GRUCell, live."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gruflax
from gruflax import convert


@jax.jit
def unrolled(cell, x):
    def step(state, x):
        state = cell(x, state)
        return state, state

    return jax.vmap(lambda row: jax.lax.scan(step, jnp.zeros(5), row)[1])(x)


def filled(cell, arrays):
    """The recipe of `to_equinox`."""
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in arrays],
        cell,
        list(arrays.values()),
        is_leaf=lambda leaf: leaf is None,
    )


def members(cell):
    return {name: getattr(cell, name) for name in ("weight_ih", "weight_hh", "bias", "bias_n")}


@pytest.mark.parametrize("use_bias", [True, False])
def test_equinox(use_bias, x, drawn, equal, close):
    cell = drawn(eqx.nn.GRUCell(4, 5, use_bias=use_bias, key=jax.random.key(0)))
    params = convert.from_equinox(cell)
    assert ("bias" in params) == use_bias
    config = gruflax.GRUConfig(use_bias=use_bias)
    close(gruflax.gru_sequence(params, x, config=config)[0], unrolled(cell, x))
    equal(params, convert.from_equinox(members(cell)))
    equal(convert.to_equinox(params), members(cell))


@pytest.mark.parametrize("use_bias", [True, False])
def test_to_equinox_is_exact_in_function(use_bias, x, drawn, close):
    gru = gruflax.GRU(5, use_bias=use_bias, return_sequences=True)
    variables = drawn(gru.init(jax.random.key(0), x))
    cell = eqx.nn.GRUCell(4, 5, use_bias=use_bias, key=jax.random.key(0))
    cell = filled(cell, convert.to_equinox(gru, variables))
    close(unrolled(cell, x), gru.apply(variables, x))


def test_errors(x, drawn):
    before = gruflax.GRU(5, reset_after=False)
    variables = drawn(before.init(jax.random.key(0), x))
    with pytest.raises(ValueError, match="equinox has no GRU with reset_after=False"):
        convert.to_equinox(before, variables)
    with pytest.raises(ValueError, match="equinox has no GRU with reset_after=False"):
        convert.to_equinox(variables["params"])
    with pytest.raises(ValueError, match="an equinox.nn.GRUCell must hold .*'bias_n'"):
        convert.from_equinox(eqx.nn.LSTMCell(4, 5, key=jax.random.key(0)))
    with pytest.raises(ValueError, match=r"params must be kernel \(f, 3u\)"):
        convert.from_equinox(
            {"weight_ih": np.zeros((9, 4)), "weight_hh": np.zeros((9, 4))}
            | {"bias": None, "bias_n": None}
        )
