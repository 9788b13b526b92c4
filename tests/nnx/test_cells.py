"""Cells that are not gruflax's own, or have a step of their own, in gruflax.nnx.RNN."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
MASK = RANDOM.random((3, 7)) < 0.6
RATES = {"dropout": 0.4, "recurrent_dropout": 0.3}


class ByName(grunnx.GRUCell):
    """A cell with a step of its own that takes all that a GRUCell takes."""

    def __call__(self, carry, inputs, *, deterministic=None, rngs=None):
        return super().__call__(carry, inputs, deterministic=deterministic, rngs=rngs)


class ByKeywords(grunnx.GRUCell):
    """The same, in fewer words."""

    def __call__(self, carry, inputs, **options):
        return super().__call__(carry, inputs, **options)


class Silent(grunnx.GRUCell):
    """A cell that would not learn of what a call says."""

    def __call__(self, carry, inputs):
        return super().__call__(carry, inputs)


def run(kind, options=None, **fields):
    cell = kind(4, 5, **fields, rngs=nnx.Rngs(3))
    return grunnx.RNN(cell, return_sequences=True)(X, **(options or {}))


@pytest.mark.parametrize("kind", [ByName, ByKeywords])
@pytest.mark.parametrize(
    "options",
    [
        lambda: {},
        lambda: {"rngs": nnx.Rngs(7)},
        lambda: {"rngs": nnx.Rngs(dropout=7)},
        lambda: {"rngs": nnx.Rngs(other=7).other},
        lambda: {"rngs": jax.random.key(7)},
        lambda: {"deterministic": True},
    ],
    ids=["kept stream", "streams", "dropout stream", "other stream", "key", "deterministic"],
)
def test_one_mask_for_all_steps(kind, options):
    """Their masks are those of the fast loop, which draws once."""
    wanted = run(grunnx.GRUCell, options=options(), **RATES)
    np.testing.assert_allclose(run(kind, options=options(), **RATES), wanted, atol=1e-6)


def test_a_cell_that_would_not_learn_of_the_call_is_refused():
    np.testing.assert_allclose(run(Silent), run(grunnx.GRUCell), atol=1e-6)
    run(Silent, **RATES)
    with pytest.raises(TypeError, match=r"call of Silent must take \['deterministic'\]"):
        run(Silent, options={"deterministic": True}, **RATES)


def stacked(**options):
    cells = [grunnx.GRUCell(4, 4, rngs=nnx.Rngs(0)), nnx.LSTMCell(4, 5, rngs=nnx.Rngs(1))]
    return grunnx.RNN(cells, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: grunnx.GRU(4, 5, rngs=nnx.Rngs(0), **options),
        lambda **options: grunnx.RNN(ByName(4, 5, rngs=nnx.Rngs(0)), **options),
        stacked,
    ],
    ids=["GRU", "own step", "stacked"],
)
def test_a_reset_does_not_go_back_to_the_state_that_was_handed_over(make):
    layer = make(return_sequences=True, return_state=True)
    reset = np.arange(7) == np.full((3, 1), 4)
    _, *states = layer(X)
    outputs, *_ = layer(X, initial_state=states, reset=reset)
    np.testing.assert_allclose(outputs[:, 4:], layer(X[:, 4:])[0], atol=1e-6)
    carried, *_ = layer(X[:, :4], initial_state=states)
    np.testing.assert_allclose(outputs[:, :4], carried, atol=1e-6)


def test_zoneout_is_drawn_at_every_step():
    x = np.zeros((1, 4, 4), np.float32)
    cell = ByName(4, 400, zoneout=0.5, bias_initializer="normal", rngs=nnx.Rngs(3))
    outputs = np.asarray(grunnx.RNN(cell, return_sequences=True)(x))
    kept = np.diff(outputs, axis=1)[0] == 0
    # Of 400 units: five standard deviations are 0.125.
    np.testing.assert_allclose(kept.mean(axis=1), 0.5, atol=0.125)
    assert 0.3 < (kept[0] != kept[1]).mean() < 0.7


class Pair(nnx.Module):
    """A plain module with the methods of a cell, and two outputs."""

    num_feature_axes = 1

    def __init__(self, rngs):
        self.inputs = nnx.Linear(4, 5, rngs=rngs)
        self.states = nnx.Linear(5, 5, rngs=rngs)

    def __call__(self, carry, x):
        carry = jnp.tanh(self.inputs(x) + self.states(carry))
        return carry, {"state": carry, "twice": 2 * carry}

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], 5))


def test_plain_modules_and_several_outputs():
    cell = Pair(nnx.Rngs(0))
    layer = grunnx.RNN(cell, return_sequences=True)
    chex.assert_trees_all_close(layer(X), nnx.RNN(cell)(X), atol=1e-6)
    outputs = layer(X, mask=MASK)
    np.testing.assert_array_equal(outputs["twice"], 2 * outputs["state"])
    held = ~MASK[:, 1:]
    np.testing.assert_array_equal(outputs["state"][:, 1:][held], outputs["state"][:, :-1][held])
    backwards = grunnx.RNN(Pair(nnx.Rngs(1)), return_sequences=True, go_backwards=True)
    both = grunnx.Bidirectional(layer, backwards)(X, mask=MASK)
    assert both["twice"].shape == (3, 7, 10) and not both["twice"][~MASK].any()
    with pytest.raises(TypeError, match="must be a flax.nnx.RNNCellBase.* or a module with its"):
        grunnx.RNN(nnx.Linear(4, 5, rngs=nnx.Rngs(0)))


class Grid(Pair):
    """A cell with two feature axes."""

    num_feature_axes = 2

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], 5))


def test_directions_of_several_feature_axes():
    x = RANDOM.normal(size=(2, 6, 3, 4)).astype(np.float32)
    forward, backward = (
        grunnx.RNN(Grid(nnx.Rngs(seed)), return_sequences=True, go_backwards=bool(seed))
        for seed in (0, 1)
    )
    lengths = np.array([4, 6])
    found = grunnx.Bidirectional(forward, backward)(x, seq_lengths=lengths)["state"]
    alone = grunnx.Bidirectional(forward, backward)(x[:1, :4])["state"]
    np.testing.assert_allclose(found[:1, :4], alone, atol=1e-6)
    assert not found[0, 4:].any()


def test_equal_initializers_make_equal_modules():
    one, two = (
        grunnx.GRU(4, 5, kernel_initializer=nnx.initializers.normal(1.0), rngs=nnx.Rngs(seed))
        for seed in (0, 1)
    )
    assert nnx.graphdef(one) == nnx.graphdef(two)
    assert hash(nnx.graphdef(one)) == hash(nnx.graphdef(two))
    assert nnx.graphdef(one) != nnx.graphdef(grunnx.GRU(4, 5, zoneout=0.1, rngs=nnx.Rngs(0)))
    mean = jax.tree.map(lambda *each: sum(each) / 2, *(nnx.split(each)[1] for each in (one, two)))
    assert mean["kernel"].shape == (4, 15)
    # A layer for the other direction is drawn by the initializer itself.
    drawn = one.mirrored(nnx.Rngs(2)).kernel.get_value()
    assert 0.6 < np.std(drawn) < 1.4


@pytest.mark.parametrize(
    "make",
    [
        lambda: grunnx.GRU(4, 4, param_dtype=jnp.bfloat16, stateful=True, rngs=nnx.Rngs(0)),
        lambda: grunnx.RNN(
            [grunnx.GRUCell(4, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))] * 2, stateful=True
        ),
    ],
    ids=["GRU", "stacked"],
)
def test_init_state_is_what_a_call_leaves(make):
    layer = make()
    with jax.numpy_dtype_promotion("standard"):
        layer.init_state(X.shape)
        assert {leaf.dtype for leaf in jax.tree.leaves(layer.h.get_value())} == {
            jnp.dtype("float32")
        }
        run = nnx.scan(lambda layer, x: (layer, layer(x)), in_axes=(nnx.Carry, 0))
        _, outputs = run(layer, jnp.stack([X, X]))
        assert outputs.shape == (2, 3, 4)
        layer.init_state(X.shape, jnp.bfloat16)
        assert {leaf.dtype for leaf in jax.tree.leaves(layer.h.get_value())} == {
            jnp.dtype("bfloat16")
        }


class Net(nnx.Module):
    """A module of a user's with the names that stateful layers have."""

    def __init__(self, rngs):
        self.stateful = True
        self.h = nnx.Linear(2, 2, rngs=rngs)
        self.gru = grunnx.GRU(4, 5, stateful=True, rngs=rngs)


def test_other_modules_are_no_stateful_layers():
    net = Net(nnx.Rngs(0))
    net.gru(X)
    grunnx.reset_states(net)
    grunnx.forget_states(net)
    assert isinstance(net.h, nnx.Linear) and not hasattr(net.gru, "h")


class Reversed(grunnx.StackedRNNCells):
    """Stacked cells with a step of their own."""

    def __call__(self, carry, inputs, **options):
        states, output = super().__call__(carry, inputs, **options)
        return states, -output


def test_the_other_direction_of_stacked_cells_has_their_step():
    cells = Reversed([grunnx.GRUCell(4, 5, rngs=nnx.Rngs(0))])
    both = grunnx.Bidirectional(grunnx.RNN(cells), rngs=nnx.Rngs(1))
    assert type(both.backward_layer.cell) is Reversed


class Linen(nn.Module):
    """A linen module that steps an NNX cell."""

    @nn.compact
    def __call__(self, x):
        cell = grunnx.GRUCell(4, 5, rngs=nnx.Rngs(0))
        return cell(cell.initialize_carry(x.shape), x)


def test_an_nnx_layer_in_a_linen_module_is_refused():
    with pytest.raises(TypeError, match="GRUCell is an NNX module: in Linen, a linen module"):
        Linen().init(jax.random.key(0), X[:, 0])
    layer = grunnx.GRU(4, 5, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="GRU is an NNX module: in Sequential, a linen module"):
        nn.Sequential([layer]).init(jax.random.key(0), X)
    wrapped = nnx.bridge.ToLinen(grunnx.GRU, args=(4, 5))
    variables = wrapped.init(jax.random.key(0), X)
    np.testing.assert_allclose(
        wrapped.apply(variables, X), gruflax.GRU(5).apply(variables, X), atol=1e-6
    )


class Members(nnx.Module):
    """A cell of a user's: three GRU cells that are mapped, whose states are averaged."""

    num_feature_axes = 1

    def __init__(self):
        make = nnx.vmap(lambda rngs: grunnx.GRUCell(4, 5, rngs=rngs))
        self.cells = nnx.split_rngs(splits=3)(make)(nnx.Rngs(0))

    def __call__(self, carry, inputs):
        step = nnx.vmap(lambda cell, h, x: cell(h, x)[0], in_axes=(0, None, None))
        carry = step(self.cells, carry, inputs).mean(axis=0)
        return carry, carry

    def initialize_carry(self, shape, rngs=None):
        return jnp.zeros((*shape[:-1], 5))


def test_cells_are_mapped_within_a_cell():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 4)), jnp.float32)
    cell = Members()
    found = grunnx.RNN(cell)(x)
    state = jnp.zeros((2, 5))
    for now in x.swapaxes(0, 1):
        state, _ = cell(state, now)
    np.testing.assert_allclose(found, state, atol=1e-6)
