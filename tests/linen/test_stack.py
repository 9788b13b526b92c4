"""Stack: PyTorch's multi-layer GRU, and its layers one by one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from oracle import GOLDEN

import gruflax
from gruflax.linen import Bidirectional, Stack


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 6, 4)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]], bool)
KEY = jax.random.key(0)
STATEFUL = {"stateful": True, "return_state": True, "return_sequences": True}


def two(units=(5, 2), **fields):
    first = gruflax.GRU(units[0], **{"return_sequences": True, **fields})
    return [first, gruflax.GRU(units[1], **fields)]


def random_params(layer, *args, **kwargs):
    """Parameters with biases that are not zero."""
    params = layer.init({"params": KEY, "dropout": KEY}, *args, **kwargs)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(11 * leaf), params)


def from_torch(arrays, suffix):
    """Weights of one direction; torch's gates are r | z | n, each a block of rows."""
    blocks = [np.split(arrays[f"gru/{name}_{suffix}"], 3) for name in ("weight_ih", "weight_hh")]
    kernel, recurrent = (np.concatenate([z, r, n]).T for r, z, n in blocks)
    rows = [np.split(arrays[f"gru/{name}_{suffix}"], 3) for name in ("bias_ih", "bias_hh")]
    bias = np.stack([np.concatenate([z, r, n]) for r, z, n in rows])
    return {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias}


def test_torch_with_two_bidirectional_layers():
    with np.load(GOLDEN / "torch213.npz") as file:
        arrays = dict(file)
    fields = {"return_sequences": True, "return_state": True, "time_major": True}
    stack = Stack([Bidirectional(gruflax.GRU(5, **fields)) for _ in range(2)])
    params = {
        f"layers_{index}": {
            "forward_layer": from_torch(arrays, f"l{index}"),
            "backward_layer": from_torch(arrays, f"l{index}_reverse"),
        }
        for index in range(2)
    }
    outputs, states = stack.apply({"params": params}, arrays["gru_x"])
    np.testing.assert_allclose(outputs, arrays["gru_y"], atol=2e-6)
    np.testing.assert_allclose(jax.tree.leaves(states), arrays["gru_h"], atol=2e-6)


def test_one_layer_after_the_other():
    layers = [
        Bidirectional(gruflax.GRU(5, return_sequences=True)),
        gruflax.RNN(gruflax.GRUCell(3), return_sequences=True),
        Bidirectional(gruflax.GRU(2), merge_mode=None),
    ]
    stack = Stack(layers)
    params = random_params(stack, X)
    assert set(params) == {"layers_0", "layers_1", "layers_2"}
    lengths = np.array([6, 3, 1])
    for steps in ({"mask": MASK}, {"seq_lengths": lengths, "reset": MASK}):
        x = X
        for index, layer in enumerate(layers):
            x = layer.apply({"params": params[f"layers_{index}"]}, x, **steps)
        got = stack.apply({"params": params}, X, **steps)
        chex.assert_trees_all_close(got, x, atol=1e-6)
    padded = X + 9 * (np.arange(6) >= lengths[:, None])[..., None]
    chex.assert_trees_all_close(
        stack.apply({"params": params}, padded.astype(np.float32), seq_lengths=lengths),
        stack.apply({"params": params}, X, seq_lengths=lengths),
        atol=1e-6,
    )


def test_states_carry_on():
    fields = {"return_state": True, "return_sequences": True}
    both = Bidirectional(gruflax.GRU(2, **fields), merge_mode=None)
    stack = Stack([gruflax.GRU(5, **fields), gruflax.GRU(3, **fields)])
    params = random_params(stack, X)
    whole, last = stack.apply({"params": params}, X)
    first, states = stack.apply({"params": params}, X[:, :4])
    second, states = stack.apply({"params": params}, X[:, 4:], initial_state=states)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)
    chex.assert_trees_all_close(states, last, atol=1e-6)
    one = stack.apply({"params": params}, X, initial_state=[None, np.zeros((3, 3), np.float32)])
    chex.assert_trees_all_equal(one, (whole, last))
    stack = Stack([gruflax.GRU(5, **fields), both])
    outputs, states = stack.apply({"params": random_params(stack, X)}, X)
    assert jax.tree.map(jnp.shape, outputs) == ((3, 6, 2), (3, 6, 2))
    assert jax.tree.map(jnp.shape, states) == (((3, 5),), ((3, 2), (3, 2)))
    np.testing.assert_array_equal(states[1][0], outputs[0][:, -1])
    np.testing.assert_array_equal(states[1][1], outputs[1][:, 0])


def test_dropout_is_between_the_layers_and_for_each_number():
    stack = Stack(two((64, 5)), dropout=0.25)
    params = random_params(stack, X)
    taken, given = [], []

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, gruflax.GRU) and context.method_name == "__call__":
            taken.append(args[0])
            given.append(result)
        return result

    with nn.intercept_methods(watch):
        outputs = stack.apply({"params": params}, X, training=True, rngs={"dropout": KEY})
    np.testing.assert_array_equal(taken[0], X)
    np.testing.assert_array_equal(outputs, given[1])
    dropped = np.asarray(taken[1]) == 0
    np.testing.assert_allclose(taken[1][~dropped], given[0][~dropped] / 0.75, rtol=1e-6)
    # 1152 draws: five standard deviations are 0.064.
    assert abs(dropped.mean() - 0.25) < 0.064
    assert (dropped[:, 0] != dropped[:, 1]).any() and (dropped[0] != dropped[1]).any()


def test_dropout_keys():
    layers = two((8, 5))
    stack = Stack(layers, dropout=0.5)
    params = {"params": random_params(stack, X)}
    drop = jax.jit(lambda key: stack.apply(params, X, training=True, rngs={"dropout": key}))
    one, again, other = (drop(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert abs(one - other).max() > 0.01
    plain = Stack(layers).apply(params, X)
    np.testing.assert_array_equal(stack.apply(params, X), plain)
    np.testing.assert_array_equal(Stack(layers).apply(params, X, training=True), plain)
    seeded = Stack(layers, dropout=0.5, seed=3)
    drawn = seeded.apply(params, X, training=True)
    assert abs(drawn - plain).max() > 0.01
    with pytest.raises(ValueError, match="training with dropout needs a key"):
        stack.apply(params, X, training=True)
    nothing = Stack(layers, dropout=1).apply(params, X, training=True, rngs={"dropout": KEY})
    alone = layers[1].apply({"params": params["params"]["layers_1"]}, jnp.zeros((3, 6, 8)))
    np.testing.assert_allclose(nothing, alone, atol=1e-6)


def test_stateful_layers_losses_and_constraints():
    options = {"kernel_regularizer": "l2", "kernel_constraint": "unit_norm"}
    layers = [gruflax.GRU(5, **STATEFUL, **options), Bidirectional(gruflax.GRU(2, **STATEFUL))]
    stack, mutable = Stack(layers), ["recurrent_state", "losses"]
    variables = stack.init(KEY, X)
    params = random_params(stack, X)
    variables["params"] = params
    (first, states), new = stack.apply(variables, X, mutable=mutable)
    total = 0.01 * jnp.square(params["layers_0"]["kernel"]).sum()
    np.testing.assert_allclose(gruflax.total_loss(new), total, rtol=1e-5)
    variables = {"params": params, "recurrent_state": new["recurrent_state"]}
    (second, _), _ = stack.apply(variables, X, mutable=mutable)
    given = {"initial_state": states, "mutable": mutable}
    (wanted, _), _ = stack.apply({"params": params}, X, **given)
    np.testing.assert_allclose(second, wanted, atol=1e-6)
    _, fresh = stack.apply(variables, method="reset_state", mutable=mutable)
    chex.assert_trees_all_equal({**variables, **fresh}, gruflax.reset_states(variables))
    (again, _), _ = stack.apply({**variables, **fresh}, X, mutable=mutable)
    np.testing.assert_array_equal(again, first)
    _, given = stack.apply({**variables, **fresh}, states, method="reset_states", mutable=mutable)
    chex.assert_trees_all_equal(given["recurrent_state"], new["recurrent_state"])
    constraints = gruflax.constraints(stack, X)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = constraints.update(zeros, constraints.init(params), params)
    got = optax.apply_updates(params, updates)
    norms = np.linalg.norm(got["layers_0"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    chex.assert_trees_all_equal(got["layers_1"], params["layers_1"])


def test_errors():
    gru = gruflax.GRU
    sequence = gru(3, return_sequences=True)
    with pytest.raises(TypeError, match=r"layers must be a list of one layer or more, .*, got GRU"):
        Stack(sequence)
    with pytest.raises(TypeError, match=r"layers\[1\] must be a gruflax.GRU, RNN or Bid.*GRUCell"):
        Stack([sequence, gruflax.GRUCell(3)])
    with pytest.raises(ValueError, match=r"layers\[0\] must return one sequence to the layer"):
        Stack([gru(3), gru(3)])
    with pytest.raises(ValueError, match=r"layers\[0\] must return one sequence to the layer"):
        Stack([Bidirectional(sequence, None), gru(3)])
    for name in ("return_state", "time_major"):
        with pytest.raises(ValueError, match=f"agree on {name}, got False .* True for layers.1"):
            Stack([sequence, gru(3, **{name: True})])
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\], got 1.5"):
        Stack([sequence, gru(3)], dropout=1.5)
    with pytest.raises(ValueError, match="of one entry for each of 2 layers, got 1"):
        Stack([sequence, gru(3)]).init(KEY, X, initial_state=[None])
    backwards = Stack([gru(3, return_sequences=True, go_backwards=True), gru(3)])
    with pytest.raises(ValueError, match="mask, seq_lengths and reset must be None where"):
        backwards.init(KEY, X, mask=MASK)
    stack = Stack([sequence, gru(3)])
    with pytest.raises(AttributeError, match="Layer must be stateful, got no layer"):
        stack.apply(stack.init(KEY, X), method="reset_states", mutable=["recurrent_state"])
