"""Zoneout, dropped recurrent weights and a learned initial state in the layers."""

import jax
import numpy as np
import pytest
from cells import OwnStep
from flax import linen as nn, nnx

import gruflax
import gruflax.nnx
from gruflax import convert


X = jax.random.normal(jax.random.key(0), (3, 6, 4))
KEY = jax.random.key(7)
FIELDS = {"zoneout": 0.3, "recurrent_weight_dropout": 0.4, "learn_initial_state": True}


def drawn(tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return structure.unflatten(
        [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def test_linen_and_nnx_are_the_functional_core():
    config = gruflax.GRUConfig(**FIELDS)
    layer = gruflax.GRU(5, return_sequences=True, **FIELDS)
    variables = drawn(layer.init(KEY, X))
    assert variables["params"]["initial_state"].shape == (5,)
    native = gruflax.nnx.GRU(4, 5, return_sequences=True, **FIELDS, rngs=nnx.Rngs(0))
    gruflax.nnx.from_linen_variables(native, variables)

    wanted, _ = gruflax.gru_sequence(variables["params"], X, config=config)
    np.testing.assert_array_equal(layer.apply(variables, X), wanted)
    np.testing.assert_array_equal(native(X, deterministic=True), wanted)

    trained, _ = gruflax.gru_sequence(variables["params"], X, config=config, rng=KEY)
    np.testing.assert_array_equal(native(X, rngs=KEY), trained)
    once, again = (
        layer.apply(variables, X, training=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (1, 2)
    )
    assert abs(once - again).max() > 1e-2


def test_each_rate_needs_a_key():
    for name in ("zoneout", "recurrent_weight_dropout"):
        layer = gruflax.GRU(5, **{name: 0.3})
        variables = layer.init(KEY, X)
        with pytest.raises(ValueError, match="training with dropout needs a key"):
            layer.apply(variables, X, training=True)


def test_both_directions_learn_a_state_of_their_own():
    layer = gruflax.Bidirectional(gruflax.GRU(5, learn_initial_state=True))
    variables = drawn(layer.init(KEY, X))
    states = {name: each["initial_state"] for name, each in variables["params"].items()}
    assert sorted(states) == ["backward_layer", "forward_layer"]
    gradient = jax.grad(lambda variables: (layer.apply(variables, X) ** 2).sum())(variables)
    for name in states:
        assert abs(gradient["params"][name]["initial_state"]).min() > 0


def test_configs_hold_the_variants():
    layer = gruflax.GRU(5, **FIELDS)
    assert FIELDS.items() <= layer.get_config().items()
    again = gruflax.GRU.from_config(layer.get_config())
    assert {name: getattr(again, name) for name in FIELDS} == FIELDS
    assert not FIELDS.keys() & gruflax.GRU(5).get_config().keys()


@pytest.mark.parametrize("field", ["zoneout", "learn_initial_state"])
def test_other_libraries_have_no_such_gru(field):
    layer = gruflax.GRU(5, **{field: FIELDS[field]})
    variables = layer.init(KEY, X)
    with pytest.raises(ValueError, match=r"only a GRU with zoneout=0 and learn_initial_state="):
        convert.to_torch(layer, variables)


@pytest.mark.parametrize("unroll", [False, True])
def test_cells_with_a_step_of_their_own_zone_out_anew_at_every_step(unroll):
    layer = gruflax.RNN(OwnStep(128, zoneout=0.5), return_sequences=True, unroll=unroll)
    outputs = layer.apply(layer.init(KEY, X), X, training=True, rngs={"dropout": KEY})
    steps = np.diff(np.concatenate([np.zeros_like(outputs[:, :1]), outputs], axis=1), axis=1)
    stood = (steps == 0).mean(axis=1)
    # Each unit stands still at about half of the steps; frozen ones would do so at all or none.
    assert stood.mean() == pytest.approx(0.5, abs=0.05)
    assert (stood == 1).mean() < 3 * 0.5 ** X.shape[1] and (stood == 0).mean() < 0.1


def test_zoneout_of_a_wrapped_cell_is_drawn_at_every_step():
    class Wrapper(nn.RNNCellBase):
        inner: nn.Module
        num_feature_axes = 1

        def __call__(self, states, inputs):
            return self.inner(states, inputs, training=True)

        def initialize_carry(self, rng, input_shape):
            return self.inner.initialize_carry(rng, input_shape)

    layer = gruflax.RNN(Wrapper(gruflax.GRUCell(128, zoneout=0.5)), return_sequences=True)
    variables = layer.init({"params": KEY, "dropout": KEY}, X)
    outputs = layer.apply(variables, X, rngs={"dropout": KEY})
    steps = np.diff(np.concatenate([np.zeros_like(outputs[:, :1]), outputs], axis=1), axis=1)
    assert ((steps == 0).all(axis=1)).mean() < 3 * 0.5 ** X.shape[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda cell: gruflax.RNN(cell, return_sequences=True),
        lambda cell: gruflax.RNN([gruflax.GRUCell(3), cell], return_sequences=True),
        nn.RNN,
    ],
    ids=["RNN", "stacked", "flax.linen.RNN"],
)
@pytest.mark.parametrize("cell", [OwnStep, gruflax.GRUCell])
def test_every_loop_begins_with_the_learned_state(make, cell):
    layer = make(cell(4, learn_initial_state=True))
    variables = layer.init(KEY, X)

    def first(start):
        moved = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + start * (path[-1].key == "initial_state"), variables
        )
        return layer.apply(moved, X)[:, 0]

    assert np.abs(first(1.0) - first(0.0)).max() > 0.05
