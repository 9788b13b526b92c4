"""StackedRNNCells against live Keras, and against the cells one by one."""

import chex
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from flax import linen as nn

import gruflax
from gruflax.linen import StackedRNNCells


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 6, 4)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]], bool)
STATES = [RANDOM.normal(size=(3, units)).astype(np.float32) for units in (5, 2)]
KEY = jax.random.key(0)


@pytest.fixture
def keras_promotes():
    """Keras relies on what JAX allows by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def keras_stack(**fields):
    cells = [keras.layers.GRUCell(5), keras.layers.GRUCell(2, reset_after=False)]
    layer = keras.layers.RNN(keras.layers.StackedRNNCells(cells), **fields)
    layer.build(X.shape)
    random = np.random.default_rng(1)
    layer.set_weights([random.normal(size=w.shape) * 0.5 for w in layer.get_weights()])
    return layer


def params_of(layer):
    names = ("kernel", "recurrent_kernel", "bias")
    return {
        f"cells_{index}": dict(zip(names, map(np.asarray, cell.get_weights()), strict=True))
        for index, cell in enumerate(layer.cell.cells)
    }


def stack(*extra, **options):
    first = gruflax.GRUCell(5, **options)
    return StackedRNNCells([first, gruflax.GRUCell(2, reset_after=False, **options), *extra])


@pytest.fixture(scope="module")
def params():
    """Parameters of `stack()` with biases that are not zero."""
    params = gruflax.RNN(stack()).init(KEY, X)["params"]["cell"]
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(11 * leaf), params)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fields", [
    {"return_sequences": True},
    {"go_backwards": True, "return_sequences": True, "zero_output_for_mask": True},
    {"zero_output_for_mask": True},
])  # fmt: skip
def test_keras(keras_promotes, fields):
    theirs = keras_stack(return_state=True, **fields)
    ours = gruflax.RNN(stack(), return_state=True, **fields)
    variables = {"params": {"cell": params_of(theirs)}}
    # Keras takes the first state for the last output where it holds outputs at masked steps.
    mask = MASK if "zero_output_for_mask" in fields else None
    for states in (None, STATES):
        outputs, *new = theirs(X, mask=mask, initial_state=states)
        wanted = (outputs, *jax.tree.leaves(new))
        got = ours.apply(variables, X, mask=mask, initial_state=states)
        chex.assert_trees_all_close(got, wanted, atol=3e-6)
    nested = [[state] for state in STATES]
    chex.assert_trees_all_equal(
        ours.apply(variables, X, initial_state=nested),
        ours.apply(variables, X, initial_state=STATES),
    )


@pytest.mark.filterwarnings("ignore")
def test_keras_configs_in_and_out(keras_promotes):
    theirs = keras_stack(return_sequences=True)
    ours = gruflax.RNN.from_config(theirs.get_config())
    assert [cell.reset_after for cell in ours.cell.cells] == [True, False]
    variables = {"params": {"cell": params_of(theirs)}}
    chex.assert_trees_all_close(ours.apply(variables, X), theirs(X), atol=3e-6)
    assert gruflax.RNN.from_config(ours.get_config()).get_config() == ours.get_config()
    again = keras.layers.RNN.from_config(ours.get_config())
    again.build(X.shape)
    again.set_weights(theirs.get_weights())
    chex.assert_trees_all_close(np.asarray(again(X)), np.asarray(theirs(X)), atol=1e-6)
    cells = StackedRNNCells.from_config(theirs.cell.get_config())
    assert cells.get_config() == ours.cell.get_config() | {"name": cells.name}
    both = gruflax.linen.Bidirectional(gruflax.RNN(stack(), return_sequences=True))
    loaded = keras.layers.Bidirectional.from_config(both.get_config())
    again = gruflax.linen.Bidirectional.from_config(loaded.get_config())
    assert [cell.units for cell in again.backward_layer.cell.cells] == [5, 2]


class Stepwise(StackedRNNCells):
    """A cell with a step of its own, which RNN must run as it is."""

    def __call__(self, states, inputs, training=False):
        return super().__call__(states, inputs, training)


@pytest.mark.parametrize("options", [
    {"mask": MASK, "initial_state": STATES},
    {"mask": MASK, "reset": ~MASK, "initial_state": STATES},
    {"reset": MASK, "reset_state": STATES},
    {"seq_lengths": np.array([6, 3, 1])},
])  # fmt: skip
def test_cell_by_cell_is_step_by_step(params, options):
    fields = {"return_state": True, "return_sequences": True, "zero_output_for_mask": True}
    for go_backwards in (False, True):
        whole, stepwise = (
            gruflax.RNN(kind(stack().cells), go_backwards=go_backwards, **fields).apply(
                {"params": {"cell": params}}, X, **options
            )
            for kind in (StackedRNNCells, Stepwise)
        )
        chex.assert_trees_all_close(whole, stepwise, atol=1e-6)


def test_one_after_the_other(params):
    """Held outputs, the first steps included, are those of two layers."""
    first = gruflax.GRU(5, return_sequences=True)
    second = gruflax.GRU(2, reset_after=False, return_sequences=True)
    between = first.apply({"params": params["cells_0"]}, X, mask=MASK)
    wanted = second.apply(
        {"params": params["cells_1"]}, between, mask=MASK, initial_state=STATES[1]
    )
    rnn = gruflax.RNN(stack(), return_sequences=True)
    states = [np.zeros_like(STATES[0]), STATES[1]]
    got = rnn.apply({"params": {"cell": params}}, X, mask=MASK, initial_state=states)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    time_major = gruflax.RNN(stack(), return_sequences=True, time_major=True, go_backwards=True)
    backwards = gruflax.RNN(stack(), return_sequences=True, go_backwards=True)
    variables = {"params": {"cell": params}}
    got = time_major.apply(variables, X.swapaxes(0, 1), mask=MASK.T)
    wanted = backwards.apply(variables, X, mask=MASK)
    np.testing.assert_allclose(got.swapaxes(0, 1), wanted, atol=1e-6)


def test_in_flax_own_loop(params):
    outputs = nn.RNN(stack()).apply({"params": {"cell": params}}, X)
    wanted = gruflax.RNN(stack(), return_sequences=True).apply({"params": {"cell": params}}, X)
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)


def test_one_step_keeps_the_nesting(params):
    cells = stack()
    for states in (tuple(STATES), STATES, [[state] for state in STATES]):
        new, output = cells.apply({"params": params}, states=states, inputs=X[:, 0])
        chex.assert_trees_all_equal_structs(new, states)
        np.testing.assert_array_equal(jax.tree.leaves(new)[1], output)
    chex.assert_trees_all_equal_shapes(cells.get_initial_state(3), tuple(STATES))
    assert not any(state.any() for state in cells.get_initial_state(3))


def test_foreign_cells_on_top():
    cells = [gruflax.GRUCell(5), nn.LSTMCell(3), nn.GRUCell(2)]
    rnn = gruflax.RNN(StackedRNNCells(cells), return_sequences=True, return_state=True)
    (outputs, *states), variables = rnn.init_with_output(KEY, X)
    x = X
    for index, cell in enumerate(cells):
        params = {"cell": variables["params"]["cell"][f"cells_{index}"]}
        x = gruflax.RNN(cell, return_sequences=True).apply({"params": params}, x)
    np.testing.assert_allclose(outputs, x, atol=1e-6)
    assert jax.tree.map(jnp.shape, states) == [(3, 5), ((3, 3), (3, 3)), (3, 2)]


def test_dropout_is_the_same_at_every_step(params):
    rnn = gruflax.RNN(stack(dropout=0.5), return_sequences=True)
    variables = {"params": {"cell": params}}
    call = {"training": True, "rngs": {"dropout": KEY}}
    scan = rnn.apply(variables, X, **call)
    unrolled = rnn.clone(unroll=True).apply(variables, X, **call)
    np.testing.assert_allclose(unrolled, scan, atol=1e-6)
    assert abs(scan - rnn.apply(variables, X)).max() > 0.05
    # Nothing but the masks is random: steps alike, from a state of rest, give outputs alike.
    alike = np.broadcast_to(X[:, :1], X.shape)
    reset = np.ones((3, 6), bool)
    outputs = rnn.apply(variables, alike, reset=reset, **call)
    np.testing.assert_allclose(outputs, jnp.tile(outputs[:, :1], (1, 6, 1)), atol=1e-6)


def test_losses_constraints_and_state(params):
    options = {"kernel_regularizer": "l2", "kernel_constraint": "unit_norm"}
    rnn = gruflax.RNN(stack(**options), stateful=True, return_state=True)
    params = {"cell": params}
    state = rnn.init(KEY, X)["recurrent_state"]
    (_, *states), new = rnn.apply(
        {"params": params, "recurrent_state": state}, X, mutable=["losses", "recurrent_state"]
    )
    wanted = sum(0.01 * jnp.square(cell["kernel"]).sum() for cell in params["cell"].values())
    np.testing.assert_allclose(gruflax.total_loss(new), wanted, rtol=1e-5)
    chex.assert_trees_all_equal(new["recurrent_state"]["h"], tuple(states))
    chex.assert_trees_all_equal(
        gruflax.reset_states(dict(new), STATES)["recurrent_state"]["h"], tuple(STATES)
    )
    constraints = gruflax.constraints(rnn, X)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = constraints.update(zeros, constraints.init(params), params)
    for cell in optax.apply_updates(params, updates)["cell"].values():
        np.testing.assert_allclose(np.linalg.norm(cell["kernel"], axis=0), 1, atol=1e-5)


def test_errors():
    with pytest.raises(TypeError, match="cells must be a list of one cell or more, got a list"):
        StackedRNNCells([])
    with pytest.raises(TypeError, match=r"cells\[1\] must be a flax.linen.RNNCellBase, .*got GRU"):
        StackedRNNCells([gruflax.GRUCell(3), gruflax.GRU(3)])
    with pytest.raises(ValueError, match="cells must be one of .*, got 'LSTMCell'"):
        StackedRNNCells.from_config({"cells": [{"class_name": "LSTMCell", "config": {}}]})
    cells = stack()
    for states, got in ((STATES[:1], "1"), (STATES[0], "ndarray")):
        with pytest.raises(ValueError, match=f"must be a tuple or list of 2 states, got {got}"):
            cells.init(KEY, states, X[:, 0])
    with pytest.raises(ValueError, match="initial_state must be 2 arrays, got 1"):
        gruflax.RNN(cells).init(KEY, X, initial_state=STATES[:1])
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        cells.get_initial_state(0)
