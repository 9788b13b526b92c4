"""The cells of flax.linen and flax.nnx, live."""

import jax
import numpy as np
import pytest
from flax import linen as nn, nnx

import gruflax
from gruflax import convert


def test_linen(x, drawn, equal, close):
    rnn = nn.RNN(nn.GRUCell(5))
    variables = drawn(rnn.init(jax.random.key(0), x))
    cell = variables["params"]["cell"]
    params = convert.from_flax_linen(variables)
    close(gruflax.gru_sequence(params, x)[0], rnn.apply(variables, x))
    equal(params, convert.from_flax_linen(cell))
    equal(convert.to_flax_linen(params), cell)


def test_to_linen_is_exact_in_function(x, drawn, close):
    for use_bias in (True, False):
        gru = gruflax.GRU(5, use_bias=use_bias, return_sequences=True)
        variables = drawn(gru.init(jax.random.key(0), x))
        cell = convert.to_flax_linen(gru, variables)
        wanted = gru.apply(variables, x)
        close(nn.RNN(nn.GRUCell(5)).apply({"params": {"cell": cell}}, x), wanted)
        close(gruflax.gru_sequence(convert.from_flax_linen(cell), x)[0], wanted)


def test_nnx(x, drawn, equal, close):
    cell = nnx.GRUCell(4, 5, rngs=nnx.Rngs(0))
    nnx.update(cell, drawn(nnx.state(cell, nnx.Param)))
    params = convert.from_flax_nnx(cell)
    close(gruflax.gru_sequence(params, x)[0], nnx.RNN(cell, rngs=nnx.Rngs(0))(x))
    state = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    equal(params, convert.from_flax_nnx(state))
    equal(params, convert.from_flax_nnx(nnx.state(cell)))
    equal(convert.to_flax_nnx(params), state)


def test_to_nnx_is_exact_in_function(x, drawn, close):
    gru = gruflax.GRU(5, return_sequences=True)
    variables = drawn(gru.init(jax.random.key(0), x))
    variables["params"]["bias"][1, 10:] = 0
    cell = nnx.GRUCell(4, 5, rngs=nnx.Rngs(0))
    nnx.update(cell, convert.to_flax_nnx(gru, variables))
    close(nnx.RNN(cell, rngs=nnx.Rngs(0))(x), gru.apply(variables, x))


def test_what_flax_does_not_have(x, drawn):
    before = gruflax.GRU(5, reset_after=False, use_bias=False)
    relu = gruflax.GRUCell(5, activation="relu")
    params = drawn(before.init(jax.random.key(0), x))
    for convert_to, name in ((convert.to_flax_linen, "linen"), (convert.to_flax_nnx, "nnx")):
        with pytest.raises(ValueError, match=f"flax.{name} has no GRU with reset_after=False"):
            convert_to(before, params)
        with pytest.raises(ValueError, match=f"flax.{name} has no GRU with activation='relu'"):
            convert_to(relu.clone(use_bias=False), params)
    params = drawn(gruflax.GRU(5).init(jax.random.key(0), x))["params"]
    with pytest.raises(ValueError, match=r"bias\[1, 2u:\] must be zeros to be converted, got val"):
        convert.to_flax_nnx(params)


def test_errors(x):
    with pytest.raises(ValueError, match=r"params of a flax.linen.GRUCell must hold .*got \['k"):
        convert.from_flax_linen({"kernel": np.zeros((4, 15))})
    with pytest.raises(ValueError, match="cell must be a flax.nnx.GRUCell, .*'dense_i'.*, Linear"):
        convert.from_flax_nnx(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"params must be kernel \(f, 3u\).*\(4, 14\)"):
        convert.to_flax_linen({"kernel": np.zeros((4, 14)), "recurrent_kernel": np.zeros((5, 15))})
    with pytest.raises(TypeError, match="variables must be a dict of arrays, got a list"):
        convert.to_flax_linen([np.zeros((4, 15))])
