"""RNN over NNX cells: gruflax's own and Flax's."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
MASK = RANDOM.random((3, 7)) < 0.6
ONES = np.ones((3, 5), np.float32)


class ForeignGRU(grunnx.GRUCell):
    """A cell with a step of its own, which RNN must run as it is."""

    def __call__(self, carry, inputs, *, deterministic=None, rngs=None):
        return super().__call__(carry, inputs, deterministic=deterministic, rngs=rngs)


def cells(kind, **options):
    return kind(4, 5, bias_initializer="random_normal", **options, rngs=nnx.Rngs(0))


def test_rnn_of_gru_cell_is_that_of_linen():
    rnn = grunnx.RNN(cells(grunnx.GRUCell), return_sequences=True, return_state=True)
    linen = gruflax.RNN(gruflax.GRUCell(5), return_sequences=True, return_state=True)
    wanted = linen.apply(grunnx.to_linen_variables(rnn), X, mask=MASK)
    chex.assert_trees_all_equal(rnn(X, mask=MASK), wanted)


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("options", [
    {}, {"mask": MASK}, {"mask": MASK, "reset": ~MASK}, {"seq_lengths": np.array([7, 3, 0])},
    {"initial_state": [ONES], "mask": MASK}, {"reset": MASK, "reset_state": ONES},
])  # fmt: skip
def test_foreign_cells_follow_the_same_rules(options, unroll):
    for fields in (
        {"return_state": True},
        {"return_sequences": True, "zero_output_for_mask": True, "go_backwards": True},
    ):
        wanted, got = (
            grunnx.RNN(cells(kind), unroll=unroll, **fields)(X, **options)
            for kind in (grunnx.GRUCell, ForeignGRU)
        )
        chex.assert_trees_all_close(got, wanted, atol=1e-6)


def test_cells_with_a_step_of_their_own_keep_one_mask_for_all_steps():
    rnn = grunnx.RNN(cells(ForeignGRU, dropout=0.5))
    first, second = rnn(X), rnn(X)
    assert np.abs(first - second).max() > 0.01
    # A first-output probe draws nothing, and all steps draw the same.
    assert rnn.cell.dropout_stream.count.get_value() == 2
    still = rnn(X, deterministic=True)
    np.testing.assert_allclose(still, gruflax.gru_sequence(rnn.cell.params, X)[1], atol=1e-6)


def test_flax_lstm_cell():
    cell = nnx.LSTMCell(4, 5, rngs=nnx.Rngs(0))
    lengths = np.array([7, 3, 1])
    rnn = grunnx.RNN(cell, return_sequences=True, return_state=True)
    outputs, c, h = rnn(X, seq_lengths=lengths)
    wanted_state, wanted = nnx.RNN(cell, return_carry=True)(X, seq_lengths=lengths)
    chex.assert_trees_all_close((c, h), wanted_state, atol=1e-6)
    valid = np.arange(7) < lengths[:, None]
    np.testing.assert_allclose(outputs[valid], wanted[valid], atol=1e-6)
    with pytest.raises(ValueError, match="initial_state must be 2 arrays, got 1"):
        rnn(X, initial_state=[h])


def test_gradients_through_a_foreign_cell():
    cell = nnx.GRUCell(4, 5, rngs=nnx.Rngs(0))

    def loss(run):
        return lambda cell: (run(cell)(X) ** 2).sum()

    got = nnx.jit(nnx.grad(loss(lambda cell: grunnx.RNN(cell, return_sequences=True))))(cell)
    wanted = nnx.jit(nnx.grad(loss(nnx.RNN)))(cell)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(got), nnx.to_pure_dict(wanted), rtol=1e-4, atol=1e-5
    )


def test_dropout_is_one_mask_for_all_steps():
    rnn = grunnx.RNN(cells(grunnx.GRUCell, dropout=0.5), return_sequences=True)
    key = jax.random.key(2)
    wanted, _ = gruflax.gru_sequence(rnn.cell.params, X, config=rnn.cell.config, rng=key)
    np.testing.assert_array_equal(rnn(X, rngs=key), wanted)


def test_rnn_wants_a_cell():
    with pytest.raises(TypeError, match="cell must be a flax.nnx.RNNCellBase, .*, got Linear"):
        grunnx.RNN(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    rnn = grunnx.RNN(nnx.LSTMCell(4, 5, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="inputs must have a time axis and 1 feature axes"):
        rnn(X[0, 0])
