"""Cells that are not gruflax's own, or have a step of their own, in gruflax.RNN."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, linen as nn

import gruflax


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 6, 4)).astype(np.float32)
MASK = RANDOM.random((3, 6)) < 0.6
KEY = jax.random.key(0)


class Cell(nn.RNNCellBase):
    """A cell with two outputs, and what a test asks for besides."""

    normalized: bool = False
    noisy: bool = False

    @nn.compact
    def __call__(self, carry, x, training=False):
        if self.normalized:
            x = nn.BatchNorm(use_running_average=not training, momentum=0.5)(x)
        carry = nn.tanh(nn.Dense(5)(x) + nn.Dense(5, use_bias=False)(carry))
        if self.noisy:
            carry = carry + jax.random.normal(self.make_rng("noise"), carry.shape)
        return carry, (carry, 2 * carry)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], 5))

    @property
    def num_feature_axes(self):
        return 1


def test_several_outputs():
    layer = gruflax.RNN(Cell(), return_sequences=True, return_state=True)
    params = layer.init(KEY, X)
    (one, two), state = layer.apply(params, X)
    chex.assert_trees_all_close((one, two), nn.RNN(Cell()).apply(params, X), atol=1e-6)
    np.testing.assert_array_equal(state, one[:, -1])
    (one, two), _ = layer.apply(params, X, mask=MASK)
    np.testing.assert_array_equal(two, 2 * one)
    np.testing.assert_array_equal(one[:, 1:][~MASK[:, 1:]], one[:, :-1][~MASK[:, 1:]])
    both = gruflax.Bidirectional(gruflax.RNN(Cell(), return_sequences=True))
    outputs, _ = both.init_with_output(KEY, X, mask=MASK)
    assert [each.shape for each in outputs] == [(3, 6, 10)] * 2
    assert not any(each[~MASK].any() for each in outputs)


def plain(variables):
    """Parameters of a cell without its normalization, which at first does next to nothing."""
    cell = variables["params"]["cell"]
    return {"params": {"cell": {name: cell[name] for name in cell if "BatchNorm" not in name}}}


class Sowing(Cell):
    """A cell that sows a loss, which is dropped unless RNN is told of it."""

    @nn.compact
    def __call__(self, carry, x, training=False):
        self.sow("losses", "state", (carry**2).sum())
        return super().__call__(carry, x, training)


def test_what_cells_sow():
    params = gruflax.RNN(Cell()).init(KEY, X)["params"]
    _, new = gruflax.RNN(Sowing()).apply({"params": params}, X, mutable=["losses"])
    assert not new
    layer = gruflax.RNN(Sowing(), variable_axes={"losses": 0})
    _, new = layer.apply({"params": params}, X, mutable=["losses"])
    assert gruflax.total_loss(new) > 0.1


def test_variables_that_go_from_step_to_step():
    cell = Cell(normalized=True)
    layer = gruflax.RNN(cell, return_sequences=True, variable_carry="batch_stats")
    variables = layer.init(KEY, X)
    _, new = layer.apply(variables, X, training=True, mutable=["batch_stats"])
    mean = np.zeros(4)
    for t in range(6):
        mean = 0.5 * mean + 0.5 * X[:, t].mean(axis=0)
    got = new["batch_stats"]["cell"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(got, mean, atol=1e-6)
    # To evaluate, nothing is written.
    still = layer.apply(variables, X)[0]
    np.testing.assert_allclose(still, nn.RNN(Cell()).apply(plain(variables), X)[0], atol=1e-4)
    each = gruflax.RNN(cell, variable_axes={"batch_stats": 0})
    _, new = each.apply(each.init(KEY, X), X, training=True, mutable=["batch_stats"])
    got = new["batch_stats"]["cell"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(got, 0.5 * X.mean(axis=0), atol=1e-6)
    assert type(layer).from_config(gruflax.RNN(gruflax.GRUCell(5)).get_config())
    with pytest.raises(ValueError, match=r"cell has variables in \['batch_stats'\]: name each"):
        gruflax.RNN([gruflax.GRUCell(4), cell]).init(KEY, X)


def test_streams_of_a_cell():
    layer = gruflax.RNN(Cell(noisy=True), return_sequences=True, split_rngs={"noise": True})
    variables = layer.init({"params": KEY, "noise": KEY}, X)
    silent = jax.tree.map(jnp.zeros_like, variables)
    noise, _ = layer.apply(silent, X, rngs={"noise": KEY})
    assert np.abs(np.diff(noise, axis=1)).min() > 0
    with pytest.raises(errors.InvalidRngError, match='PRNG for "noise"'):
        gruflax.RNN(Cell(noisy=True)).apply(silent, X, rngs={"noise": KEY})


@pytest.mark.parametrize("fields", ["variable_axes", "variable_carry", "split_rngs"])
def test_lifting_is_part_of_a_config(fields):
    value = "batch_stats" if fields == "variable_carry" else {"batch_stats": 0}
    layer = gruflax.RNN(gruflax.GRUCell(5), **{fields: value})
    assert gruflax.RNN.from_config(layer.get_config()) == layer
    assert fields not in gruflax.RNN(gruflax.GRUCell(5)).get_config()


class ByKeywords(gruflax.GRUCell):
    """A cell with a step of its own, in few words."""

    @nn.compact
    def __call__(self, states, inputs, **options):
        return super().__call__(states, inputs, **options)


class Silent(gruflax.GRUCell):
    """A cell that would not learn of what a call says."""

    @nn.compact
    def __call__(self, states, inputs):
        return super().__call__(states, inputs)


def test_training_reaches_a_step_of_its_own():
    options = {"training": True, "rngs": {"dropout": KEY}}
    params = gruflax.RNN(ByKeywords(5)).init(KEY, X)
    found = gruflax.RNN(ByKeywords(5, dropout=0.5)).apply(params, X, **options)
    assert np.abs(found - gruflax.RNN(ByKeywords(5)).apply(params, X)).max() > 0.01
    with pytest.raises(TypeError, match=r"call of Silent must take \['training'\]"):
        gruflax.RNN(Silent(5, dropout=0.5)).apply(params, X, **options)


@pytest.mark.parametrize("cell", [gruflax.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("widths", [("bfloat16", "float32"), ("float32", "float64")])
def test_states_are_carried_in_the_dtype_that_is_computed_in(x64, cell, count, widths):
    """Narrow weights, wide inputs: two halves, the state handed over, are the whole."""
    narrow, wide = widths
    options = {"param_dtype": narrow}
    if cell is nn.LSTMCell:
        options["recurrent_kernel_init"] = nn.initializers.normal(0.3)
    cells = [cell(5, **options) for _ in range(count)]
    layer = gruflax.RNN(cells if count > 1 else cells[0], return_sequences=True, return_state=True)
    x = X.astype(wide)
    with jax.numpy_dtype_promotion("standard"):
        variables = layer.init(KEY, x)
        whole, *_ = layer.apply(variables, x)
        first, *states = layer.apply(variables, x[:, :3])
        second, *_ = layer.apply(variables, x[:, 3:], initial_state=states)
    assert whole.dtype == wide and {each.dtype for each in jax.tree.leaves(states)} == {
        jnp.dtype(wide)
    }
    found = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(found, whole, atol=1e-6 if wide == "float32" else 1e-14)


def test_a_wide_initial_state_is_cast(x64):
    layer = gruflax.RNN(nn.LSTMCell(5), return_state=True)
    x = X.astype(np.float32)
    variables = layer.init(KEY, x)
    given = layer.apply(variables, x, initial_state=(np.ones((3, 5)),) * 2)
    assert {each.dtype for each in given} == {jnp.dtype("float32")}


def test_directions_of_several_feature_axes():
    x = RANDOM.normal(size=(2, 4, 5, 5, 3)).astype(np.float32)
    layer = gruflax.Bidirectional(gruflax.RNN(nn.ConvLSTMCell(2, (3, 3)), return_sequences=True))
    params = layer.init(KEY, x)
    mask = np.arange(4) < np.array([[2], [4]])
    found = layer.apply(params, x, seq_lengths=np.array([2, 4]))
    np.testing.assert_array_equal(found, layer.apply(params, x, mask=mask))
    np.testing.assert_allclose(found[:1, :2], layer.apply(params, x[:1, :2]), atol=1e-6)
    assert not found[0, 2:].any() and found[1].any(axis=(1, 2, 3)).all()


class AroundJit(nn.RNNCellBase):
    """A cell around a module that is compiled by itself."""

    def setup(self):
        self.inner = nn.jit(gruflax.GRUCell)(5)

    def __call__(self, states, inputs):
        return self.inner(states, inputs)

    def initialize_carry(self, rng, shape):
        return jnp.zeros((*shape[:-1], 5))

    @property
    def num_feature_axes(self):
        return 1


def test_a_compiled_part_of_a_cell_runs_in_two_loops():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return gruflax.RNN(AroundJit())(x), gruflax.RNN(AroundJit())(x)

    (one, _), variables = Twice().init_with_output(KEY, X)
    params = {"params": variables["params"]["AroundJit_0"]["inner"]}
    wanted = gruflax.GRU(5).apply(params, X)
    np.testing.assert_allclose(one, wanted, atol=1e-6)
