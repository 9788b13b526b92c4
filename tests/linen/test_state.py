"""Stateful layers: what they keep, when, and how it is reset."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gruflax
import gruflax.compat.v1


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 6, 3)).astype(np.float32)
H0 = RANDOM.normal(size=(4, 5)).astype(np.float32)
KEY = jax.random.key(0)
LAYER = gruflax.GRU(5, stateful=True, return_sequences=True)


@pytest.fixture(scope="module")
def variables():
    return LAYER.init(KEY, X)


@pytest.fixture(scope="module")
def whole(variables):
    """Outputs and states over a sequence of two windows."""
    return gruflax.gru_sequence(variables["params"], np.concatenate([X, X], axis=1))


@jax.jit
def call(variables, x, **options):
    outputs, new = LAYER.apply(variables, x, **options, mutable=["recurrent_state"])
    return outputs, {**variables, **new}


def test_init_stores_zeros(variables):
    assert jax.tree.map(jnp.shape, variables["recurrent_state"]) == {"h": (4, 5)}
    assert not variables["recurrent_state"]["h"].any()


def test_state_is_carried_under_jit(variables, whole):
    first, variables = call(variables, X)
    second, variables = call(variables, X)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole[0], atol=1e-6)
    np.testing.assert_allclose(variables["recurrent_state"]["h"], whole[1], atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        gruflax.RNN(nn.LSTMCell(5), stateful=True),
        gruflax.Stack([gruflax.GRU(5, return_sequences=True), gruflax.GRU(5, stateful=True)]),
        gruflax.Bidirectional(gruflax.GRU(5, stateful=True)),
        gruflax.compat.v1.GRU(5, stateful=True),
        # The transformation lifts the parameters alone.
        nn.vmap(
            gruflax.GRU,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=2,
        )(5, stateful=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_state_that_cannot_be_written_raises(layer):
    variables = layer.init(KEY, X)
    lifted = type(layer) is not gruflax.GRU and isinstance(layer, gruflax.GRU)
    mutable = ["recurrent_state"] if lifted else False
    for given in (variables, {"params": variables["params"]}):
        with pytest.raises(ValueError, match=r"call apply with mutable=\['recurrent_state'\]"):
            layer.apply(given, X, mutable=mutable)


def test_without_the_collection_it_begins_with_zeros(variables, whole):
    outputs, new = call({"params": variables["params"]}, X)
    np.testing.assert_allclose(outputs, whole[0][:, :6], atol=1e-6)
    np.testing.assert_allclose(new["recurrent_state"]["h"], whole[0][:, 5], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda cell: cell,
        lambda cell: [gruflax.GRUCell(3), cell],
    ],
    ids=["one", "stacked"],
)
def test_init_stores_the_state_that_the_cell_begins_with(make):
    """The first call after init, and that after forget_states, begin as one without a state."""
    layer, plain = (
        gruflax.RNN(make(nn.LSTMCell(4, carry_init=nn.initializers.ones)), stateful=stateful)
        for stateful in (True, False)
    )
    variables = layer.init(KEY, X)
    stored = jax.tree.leaves(variables["recurrent_state"])
    assert all((each == 1).all() for each in stored[-2:])
    wanted = plain.apply({"params": variables["params"]}, X)
    for given in (variables, gruflax.forget_states(variables)):
        outputs, new = layer.apply(given, X, mutable=["recurrent_state"])
        np.testing.assert_allclose(outputs, wanted, atol=1e-6)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            new, {"recurrent_state": variables["recurrent_state"]}
        )


def test_init_stores_what_a_call_will_leave():
    """In a scan over windows the state must keep its dtype, whatever dtype the inputs choose."""
    layer = gruflax.GRU(5, stateful=True, param_dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        variables = layer.init(KEY, X)
        assert variables["recurrent_state"]["h"].dtype == jnp.float32
        _, new = layer.apply(variables, X, mutable=["recurrent_state"])
    assert new["recurrent_state"]["h"].dtype == jnp.float32


def test_initial_state_wins_and_the_result_is_stored(variables):
    _, variables = call(variables, X)
    wanted, state = gruflax.gru_sequence(variables["params"], X, initial_state=H0)
    outputs, new = LAYER.apply(variables, X, initial_state=H0, mutable=["recurrent_state"])
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)
    np.testing.assert_allclose(new["recurrent_state"]["h"], state, atol=1e-6)


def test_resets_in_the_sequence_go_back_to_zeros_and_not_to_the_last_call(variables):
    reset = np.zeros((4, 6), bool)
    reset[:, 2] = True
    _, variables = call(variables, X)
    outputs, _ = call(variables, X, reset=reset)
    fresh, _ = gruflax.gru_sequence(variables["params"], X[:, 2:])
    np.testing.assert_allclose(outputs[:, 2:], fresh, atol=1e-6)
    np.testing.assert_allclose(outputs[:, :2], call(variables, X)[0][:, :2], atol=1e-6)


def test_batch_size_must_stay(variables):
    with pytest.raises(
        ValueError, match=r"stored state must have shapes \[\(2, 5\)\], got \[\(4, 5\)\]"
    ):
        call(variables, X[:2])


def test_vmap_keeps_a_state_for_each_member(variables):
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.5]), variables)
    _, members = jax.vmap(call, in_axes=(0, None))(members, X)
    for index in range(2):
        member = jax.tree.map(lambda leaf, index=index: leaf[index], members)
        _, state = gruflax.gru_sequence(member["params"], X)
        np.testing.assert_allclose(member["recurrent_state"]["h"], state, atol=1e-6)


def test_pmap_keeps_a_state_for_each_device(variables):
    devices = 2
    x = X.reshape(devices, 2, 6, 3)
    state = jnp.zeros((devices, 2, 5))
    replicated = jax.tree.map(lambda leaf: jnp.stack([leaf] * devices), variables["params"])
    shards = {"params": replicated, "recurrent_state": {"h": state}}
    run = jax.pmap(call, devices=jax.devices()[:devices])
    _, shards = run(shards, x)
    outputs, shards = run(shards, x)
    _, single = call(variables, X)
    wanted, single = call(single, X)
    np.testing.assert_allclose(outputs.reshape(4, 6, 5), wanted, atol=1e-6)
    got = shards["recurrent_state"]["h"].reshape(4, 5)
    np.testing.assert_allclose(got, single["recurrent_state"]["h"], atol=1e-6)


def test_reset_states_is_pure(variables):
    _, used = call(variables, X)
    before = np.array(used["recurrent_state"]["h"])
    fresh = jax.jit(gruflax.reset_states)(used)
    assert not fresh["recurrent_state"]["h"].any()
    np.testing.assert_array_equal(used["recurrent_state"]["h"], before)
    np.testing.assert_array_equal(fresh["params"]["kernel"], used["params"]["kernel"])
    for states in (H0, [H0], {"h": H0}):
        given = gruflax.reset_states(used, states)
        np.testing.assert_array_equal(given["recurrent_state"]["h"], H0)


def test_reset_states_of_a_model_with_two_layers():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = gruflax.GRU(5, stateful=True, return_sequences=True, name="a")(x)
            return gruflax.RNN(gruflax.GRUCell(2), stateful=True, name="b")(x)

    variables = Model().init(KEY, X)
    assert jax.tree.map(jnp.shape, variables["recurrent_state"]) == {
        "a": {"h": (4, 5)},
        "b": {"h": (4, 2)},
    }
    given = gruflax.reset_states(variables, [H0, H0[:, :2]])
    np.testing.assert_array_equal(given["recurrent_state"]["b"]["h"], H0[:, :2])
    with pytest.raises(ValueError, match="states must be 2 arrays, got 1"):
        gruflax.reset_states(variables, [H0])


def test_several_states_of_a_cell_are_one_variable():
    layer = gruflax.RNN(nn.LSTMCell(5), stateful=True)
    variables = layer.init(KEY, X)
    assert [leaf.shape for leaf in variables["recurrent_state"]["h"]] == [(4, 5), (4, 5)]
    first, new = layer.apply(variables, X, mutable=["recurrent_state"])
    twice, _ = layer.apply({**variables, **new}, X, mutable=["recurrent_state"])
    whole = gruflax.RNN(nn.LSTMCell(5))
    got = whole.apply({"params": variables["params"]}, np.concatenate([X, X], axis=1))
    np.testing.assert_allclose(twice, got, atol=1e-6)
    assert np.abs(first - twice).max() > 1e-3


@pytest.mark.parametrize("method", ["reset_states", "reset_state"])
def test_methods(variables, method):
    _, used = call(variables, X)
    _, new = LAYER.apply(used, method=method, mutable=["recurrent_state"])
    assert not new["recurrent_state"]["h"].any()
    bound = LAYER.bind(used, mutable=["recurrent_state"])
    bound.reset_states([H0])
    np.testing.assert_array_equal(bound.variables["recurrent_state"]["h"], H0)


@pytest.mark.parametrize(
    "states, message",
    [
        ([H0, H0], "states must be 1 arrays, got 2"),
        (H0[:2], r"states must have shapes \[\(4, 5\)\], got \[\(2, 5\)\]"),
    ],
)
def test_wrong_states(variables, states, message):
    with pytest.raises(ValueError, match=message):
        gruflax.reset_states(variables, states)
    with pytest.raises(ValueError, match=message):
        LAYER.bind(variables, mutable=["recurrent_state"]).reset_states(states)


def test_layers_that_keep_nothing_cannot_be_reset(variables):
    params = {"params": variables["params"]}
    with pytest.raises(AttributeError, match="Layer must be stateful"):
        gruflax.reset_states(params)
    plain = gruflax.GRU(5)
    assert "recurrent_state" not in plain.init(KEY, X)
    with pytest.raises(AttributeError, match="Layer must be stateful"):
        plain.bind(params, mutable=["recurrent_state"]).reset_states()
    with pytest.raises(ValueError, match="needs to know its batch size"):
        LAYER.bind(params, mutable=["recurrent_state"]).reset_states()
    with pytest.raises(ValueError, match=r"pass mutable=\['recurrent_state'\]"):
        LAYER.bind(variables).reset_states()


def test_a_fit_like_loop_keeps_the_state_as_data(variables):
    """Truncated backpropagation: gradients stop at the window, the state goes on."""

    @jax.jit
    def step(variables, x):
        def loss(params):
            outputs, new = LAYER.apply(
                {**variables, "params": params}, x, mutable=["recurrent_state"]
            )
            return (outputs**2).mean(), new

        gradients, new = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(
            lambda leaf, delta: leaf - 0.0 * delta, variables["params"], gradients
        )
        return {"params": params, **new}

    end = step(step(variables, X), X)
    _, state = gruflax.gru_sequence(variables["params"], np.concatenate([X, X], axis=1))
    np.testing.assert_allclose(end["recurrent_state"]["h"], state, atol=1e-6)


def test_a_changed_batch_size_names_the_remedy():
    layer = gruflax.GRU(5, stateful=True)
    variables = layer.init(KEY, X)
    for wrong in (
        lambda: layer.apply(variables, X[:1], mutable=["recurrent_state"]),
        lambda: gruflax.reset_states(variables, np.ones((1, 5), np.float32)),
    ):
        with pytest.raises(ValueError, match="keeps its batch size until forget_states"):
            wrong()
    forgotten = gruflax.forget_states(variables)
    assert set(forgotten) == {"params"} and set(variables) == {"params", "recurrent_state"}
    _, state = layer.apply(forgotten, X[:1], mutable=["recurrent_state"])
    assert state["recurrent_state"]["h"].shape == (1, 5)


def test_states_of_many_layers_are_taken_in_the_order_of_the_layers():
    layers = [gruflax.GRU(2, stateful=True, return_sequences=True) for _ in range(12)]
    stack = gruflax.Stack(layers)
    variables = stack.init(KEY, X)
    states = [np.full((len(X), 2), index, np.float32) for index in range(12)]
    stored = gruflax.reset_states(variables, states)["recurrent_state"]
    for index, state in enumerate(states):
        np.testing.assert_array_equal(stored[f"layers_{index}"]["h"], state)


def test_states_of_directions_are_taken_forward_first():
    both = gruflax.Bidirectional(gruflax.GRU(2, stateful=True, return_sequences=True))
    layers = [both, gruflax.GRU(2, stateful=True)]
    states = [np.full((len(X), 2), index, np.float32) for index in range(3)]
    for model, count in ((both, 2), (gruflax.Stack(layers), 3)):
        stored = gruflax.reset_states(model.init(KEY, X), states[:count])["recurrent_state"]
        halves = stored if count == 2 else stored["layers_0"]
        np.testing.assert_array_equal(halves["forward_layer"]["h"], states[0])
        np.testing.assert_array_equal(halves["backward_layer"]["h"], states[1])


RESET = np.zeros((4, 6), bool)
RESET[:, 3] = True


@pytest.mark.parametrize(
    "layer",
    [
        gruflax.GRU(5, return_sequences=True, return_state=True),
        gruflax.GRU(5, return_sequences=True, return_state=True, learn_initial_state=True),
        gruflax.RNN(nn.LSTMCell(5), return_sequences=True, return_state=True),
        gruflax.RNN([gruflax.GRUCell(3), nn.LSTMCell(5)], return_sequences=True, return_state=True),
        gruflax.Stack([gruflax.GRU(5, return_sequences=True, return_state=True) for _ in range(2)]),
        gruflax.Bidirectional(gruflax.GRU(5, return_sequences=True, return_state=True)),
    ],
    ids=["GRU", "learned", "LSTM", "stacked", "Stack", "Bidirectional"],
)
def test_a_reset_does_not_go_back_to_the_state_that_was_handed_over(layer):
    """Rollouts: what the last one left is what this one begins with, and no episode after it."""
    variables = layer.init(KEY, X)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    _, *states = layer.apply(variables, X)
    states = states[0] if isinstance(layer, gruflax.Stack) else states
    outputs, *_ = layer.apply(variables, X, initial_state=states, reset=RESET)
    first, second = X[:, :3], X[:, 3:]
    fresh, *_ = layer.apply(variables, second)
    carried, *_ = layer.apply(variables, first, initial_state=states)
    if isinstance(layer, gruflax.Bidirectional):
        # Backwards the first part is the last one, and begins anew.
        backward = [jnp.zeros_like(states[0]), states[1]]
        fresh = layer.apply(variables, second, initial_state=backward)[0]
        carried = layer.apply(variables, first, initial_state=[states[0], backward[0]])[0]
    np.testing.assert_allclose(outputs[:, 3:], fresh, atol=1e-6)
    np.testing.assert_allclose(outputs[:, :3], carried, atol=1e-6)


@pytest.mark.parametrize("cells", [lambda cell: cell, lambda cell: [gruflax.GRUCell(3), cell]])
def test_a_stateful_layer_learns_no_initial_state(cells):
    cell = gruflax.GRUCell(4, learn_initial_state=True)
    with pytest.raises(ValueError, match="learn_initial_state must be False where stateful=True"):
        gruflax.RNN(cells(cell), stateful=True)
