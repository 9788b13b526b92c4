"""GRUCell as an NNX cell: in Flax's containers, and step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
H0 = RANDOM.normal(size=(3, 5)).astype(np.float32)


@pytest.fixture
def cell():
    options = {"bias_initializer": "random_normal"}
    return grunnx.GRUCell(4, 5, **options, rngs=nnx.Rngs(0))


def test_one_step_is_that_of_linen(cell):
    linen = gruflax.GRUCell(5)
    wanted_state, wanted = linen.apply(grunnx.to_linen_variables(cell), H0, X[:, 0])
    state, output = cell(H0, X[:, 0])
    np.testing.assert_array_equal(output, wanted)
    np.testing.assert_array_equal(state, wanted_state)
    nested, _ = cell([H0], X[:, 0])
    assert isinstance(nested, list)
    np.testing.assert_array_equal(nested[0], state)


def test_in_flax_rnn_and_bidirectional(cell):
    lengths = np.array([7, 3, 1])
    wanted, wanted_state = gruflax.gru_sequence(cell.params, X, seq_lengths=lengths)
    state, outputs = nnx.RNN(cell, return_carry=True)(X, seq_lengths=lengths)
    valid = np.arange(7) < lengths[:, None]
    np.testing.assert_allclose(outputs[valid], wanted[valid], atol=1e-6)
    np.testing.assert_allclose(state, wanted_state, atol=1e-6)
    other = grunnx.GRUCell(4, 5, rngs=nnx.Rngs(1))
    both = nnx.Bidirectional(nnx.RNN(cell), nnx.RNN(other))(X)
    backwards, _ = gruflax.gru_sequence(other.params, X, go_backwards=True)
    np.testing.assert_allclose(both[..., 5:], backwards[:, ::-1], atol=1e-6)


def test_nnx_scan_over_steps(cell):
    axes = nnx.StateAxes({nnx.Param: None, ...: nnx.Carry})

    @nnx.scan(in_axes=(axes, nnx.Carry, 1), out_axes=(nnx.Carry, 1))
    def steps(cell, state, x):
        return cell(state, x)

    state, outputs = steps(cell, H0, X)
    wanted, wanted_state = gruflax.gru_sequence(cell.params, X, initial_state=H0)
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)
    np.testing.assert_allclose(state, wanted_state, atol=1e-6)


def test_gradient_of_a_step(cell):
    gradients = nnx.grad(lambda cell: (cell(H0, X[:, 0])[1] ** 2).sum())(cell)

    def pure(params):
        return (gruflax.gru_cell_step(params, H0, X[:, 0])[1] ** 2).sum()

    wanted = jax.grad(pure)(cell.params)
    for name, gradient in nnx.to_pure_dict(gradients).items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-5, atol=1e-6)


def test_dropout(cell):
    dropping = grunnx.GRUCell(4, 5, dropout=0.5, rngs=nnx.Rngs(0))
    first, second = (dropping(H0, X[:, 0])[1] for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    key = jax.random.key(3)
    wanted = gruflax.gru_cell_step(dropping.params, H0, X[:, 0], key, config=dropping.config)[1]
    np.testing.assert_array_equal(dropping(H0, X[:, 0], rngs=key)[1], wanted)
    dropping.eval()
    wanted = gruflax.gru_cell_step(dropping.params, H0, X[:, 0])[1]
    np.testing.assert_array_equal(dropping(H0, X[:, 0])[1], wanted)
    # Flax's RNN carries the stream on, whatever the cell drops.
    dropping.train()
    assert nnx.RNN(dropping)(X).shape == (3, 7, 5)
    assert dropping.dropout_stream.count.get_value() > 2


def test_initial_carry(cell):
    assert cell.num_feature_axes == 1
    state = cell.initialize_carry((2, 3, 4))
    assert state.shape == (2, 3, 5) and not state.any()
    drawn = cell.initialize_carry((3, 4), nnx.Rngs(0), jax.nn.initializers.normal())
    assert np.abs(drawn).max() > 1e-3
    half = grunnx.GRUCell(4, 5, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert half.initialize_carry((3, 4)).dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="rngs must be an nnx.Rngs with a 'carry' stream"):
        cell.initialize_carry((3, 4), carry_init=jax.nn.initializers.normal())


def test_wrong_states(cell):
    with pytest.raises(ValueError, match="carry must be one state for a GRU, got 2"):
        cell([H0, H0], X[:, 0])
    with pytest.raises(ValueError, match=r"state must have shape \(3, 5\), got \(2, 5\)"):
        cell(H0[:2], X[:, 0])
