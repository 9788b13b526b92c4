"""haiku.GRU, live."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gruflax
from gruflax import convert


BEFORE = gruflax.GRUConfig(reset_after=False)


def unrolled(*names):
    def run(x):
        for name in names:
            core = hk.GRU(5, name=name)
            x, _ = hk.dynamic_unroll(core, x, jnp.zeros((x.shape[0], 5)), time_major=False)
        return x

    return hk.without_apply_rng(hk.transform(run))


def test_haiku(x, drawn, equal, close):
    theirs = unrolled("gru")
    params = drawn(theirs.init(jax.random.key(0), x))
    ours = convert.from_haiku(params)
    close(gruflax.gru_sequence(ours, x, config=BEFORE)[0], theirs.apply(params, x))
    equal(ours, convert.from_haiku(params["gru"]))
    equal(convert.to_haiku(ours), params["gru"])


def test_to_haiku(x, drawn, equal, close):
    theirs = unrolled("gru")
    for use_bias in (True, False):
        gru = gruflax.GRU(5, reset_after=False, use_bias=use_bias, return_sequences=True)
        variables = drawn(gru.init(jax.random.key(0), x))
        params = convert.to_haiku(gru, variables)
        close(theirs.apply({"gru": params}, x), gru.apply(variables, x))
        back = convert.from_haiku(params)
        equal({name: back[name] for name in variables["params"]}, variables["params"])


def test_by_name(x, drawn, equal):
    params = drawn(unrolled("encoder", "decoder").init(jax.random.key(0), x))
    equal(convert.from_haiku(params, "decoder"), convert.from_haiku(params["decoder"]))
    with pytest.raises(ValueError, match=r"modules: \['decoder', 'encoder'\], got None"):
        convert.from_haiku(params)
    with pytest.raises(ValueError, match=r"modules: \['decoder', 'encoder'\], got 'coder'"):
        convert.from_haiku(params, "coder")


def test_errors(x, drawn):
    params = drawn(gruflax.GRU(5).init(jax.random.key(0), x))["params"]
    with pytest.raises(ValueError, match="haiku has no GRU with reset_after=True"):
        convert.to_haiku(params)
    with pytest.raises(ValueError, match="haiku has no GRU with activation='relu'"):
        convert.to_haiku(
            gruflax.GRU(5, activation="relu", reset_after=False), params | {"bias": np.zeros(15)}
        )
    with pytest.raises(ValueError, match=r"one of the haiku.GRU modules: \[\], got None"):
        convert.from_haiku({"linear": {"w": np.zeros((4, 5))}})
