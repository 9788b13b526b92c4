"""Bidirectional against live Keras, and what Keras has no word for."""

import chex
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import gruflax
from gruflax.linen import Bidirectional


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 6, 4)).astype(np.float32)
KEY = jax.random.key(0)
MODES = ("concat", "sum", "mul", "ave", None)
MASKS = {
    "none": None,
    "right": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], bool),
    "left": np.array([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool),
    "gaps": np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]], bool),
}
STATES = [RANDOM.normal(size=(3, 5)).astype(np.float32) for _ in range(2)]


@pytest.fixture
def keras_promotes():
    """Keras relies on what JAX allows by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def random_weights(layer):
    """Gives a built Keras layer random weights, biases too."""
    random = np.random.default_rng(1)
    layer.set_weights([random.normal(size=w.shape) * 0.5 for w in layer.get_weights()])


def params_of(layer):
    names = ("kernel", "recurrent_kernel", "bias")
    return {
        name: dict(zip(names, map(np.asarray, half.get_weights()), strict=True))
        for name, half in (
            ("forward_layer", layer.forward_layer),
            ("backward_layer", layer.backward_layer),
        )
    }


def random_params(layer, *args, **kwargs):
    """Parameters with biases that are not zero."""
    params = layer.init({"params": KEY, "dropout": KEY}, *args, **kwargs)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(11 * leaf), params)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("merge_mode", MODES)
def test_merge_modes_masks_and_states(keras_promotes, merge_mode, return_sequences):
    theirs = keras.layers.Bidirectional(
        keras.layers.GRU(5, return_sequences=return_sequences, return_state=True),
        merge_mode=merge_mode,
    )
    theirs.build(X.shape)
    random_weights(theirs)
    ours = Bidirectional(
        gruflax.GRU(5, return_sequences=return_sequences, return_state=True), merge_mode
    )
    variables = {"params": params_of(theirs)}
    # Without merging, all masks; the merging itself knows nothing of masks.
    names = MASKS if merge_mode is None else ("gaps",)
    for name, states in zip(names, (STATES, None, STATES, None), strict=False):
        wanted = theirs(X, mask=MASKS[name], initial_state=states)
        got = ours.apply(variables, X, mask=MASKS[name], initial_state=states)
        assert isinstance(got, tuple)
        chex.assert_trees_all_close(got, tuple(wanted), atol=3e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backwards", [False, True])
def test_a_backward_layer_of_its_own(keras_promotes, backwards):
    """Also with the layers the other way round, whose outputs come with the last step first."""
    fields = {"return_sequences": True}
    forward = {**fields, "reset_after": False, "go_backwards": backwards}
    backward = {**fields, "activation": "softsign", "go_backwards": not backwards}
    theirs = keras.layers.Bidirectional(
        keras.layers.GRU(5, **forward), backward_layer=keras.layers.GRU(3, **backward)
    )
    theirs.build(X.shape)
    random_weights(theirs)
    ours = Bidirectional(
        gruflax.GRU(5, **forward), backward_layer=gruflax.GRU(3, **backward, name="other")
    )
    variables = {"params": params_of(theirs)}
    for mask in (MASKS["left"], MASKS["right"]):
        wanted = theirs(X, mask=mask)
        chex.assert_trees_all_close(ours.apply(variables, X, mask=mask), wanted, atol=3e-6)


@pytest.mark.filterwarnings("ignore")
def test_stateful_calls(keras_promotes):
    # Keras cannot do this with return_state: its compute_mask raises.
    layer = {"stateful": True, "return_sequences": True}
    theirs = keras.layers.Bidirectional(keras.layers.GRU(5, **layer))
    theirs(X)
    random_weights(theirs)
    theirs.reset_state()
    wanted = [theirs(X), theirs(X), theirs(X, initial_state=STATES), theirs(X)]
    theirs.reset_state()
    wanted.append(theirs(X))
    ours = Bidirectional(gruflax.GRU(5, **layer))
    variables = ours.init(KEY, X)
    assert set(variables["recurrent_state"]) == {"forward_layer", "backward_layer"}
    variables = {**variables, "params": params_of(theirs)}
    mutable = ["recurrent_state"]
    for index, outputs in enumerate(wanted):
        if index == 4:
            _, reset = ours.apply(variables, method="reset_state", mutable=mutable)
            chex.assert_trees_all_equal({**variables, **reset}, gruflax.reset_states(variables))
            variables = {**variables, **reset}
        states = STATES if index == 2 else None
        got, new = ours.apply(variables, X, initial_state=states, mutable=mutable)
        variables = {**variables, **new}
        chex.assert_trees_all_close(got, outputs, atol=3e-6)
    _, new = ours.apply(variables, STATES, method="reset_states", mutable=mutable)
    np.testing.assert_array_equal(new["recurrent_state"]["forward_layer"]["h"], STATES[0])
    np.testing.assert_array_equal(new["recurrent_state"]["backward_layer"]["h"], STATES[1])


@pytest.mark.filterwarnings("ignore")
def test_keras_configs_in_and_out(keras_promotes):
    theirs = keras.layers.Bidirectional(
        keras.layers.GRU(5, return_sequences=True, kernel_regularizer="l2", reset_after=False),
        merge_mode="ave",
        backward_layer=keras.layers.GRU(
            5, return_sequences=True, go_backwards=True, activation="relu"
        ),
        name="both",
    )
    theirs.build(X.shape)
    random_weights(theirs)
    ours = Bidirectional.from_config(theirs.get_config())
    assert (ours.name, ours.merge_mode, ours.layer.units) == ("both", "ave", 5)
    assert ours.layer.name == "forward_layer" and ours.backward_layer.name == "backward_layer"
    variables = {"params": params_of(theirs)}
    chex.assert_trees_all_close(ours.apply(variables, X), theirs(X), atol=3e-6)
    assert Bidirectional.from_config(ours.get_config()).get_config() == ours.get_config()
    again = keras.layers.Bidirectional.from_config(ours.get_config())
    again.build(X.shape)
    again.set_weights(theirs.get_weights())
    chex.assert_trees_all_close(np.asarray(again(X)), np.asarray(theirs(X)), atol=1e-6)
    config = theirs.get_config()
    del config["backward_layer"]
    assert Bidirectional.from_config(config).backward_layer.reset_after is False


@pytest.mark.filterwarnings("ignore")
def test_dtypes_in_configs(keras_promotes):
    ours = Bidirectional(gruflax.GRU(5, dtype="bfloat16"))
    theirs = keras.layers.Bidirectional.from_config(ours.get_config())
    assert theirs.dtype_policy.name == theirs.forward_layer.dtype_policy.name == "mixed_bfloat16"
    outputs, _ = ours.init_with_output(KEY, X)
    assert outputs.dtype == jnp.bfloat16 == theirs(X).dtype


def reference(params, x, **options):
    """The two directions one by one."""
    forward, _ = gruflax.gru_sequence(params["forward_layer"], x, **options)
    backward, _ = gruflax.gru_sequence(params["backward_layer"], x, go_backwards=True, **options)
    return forward, backward


def test_lengths_batch_axes_and_time_major():
    layer = Bidirectional(gruflax.GRU(5, return_sequences=True))
    params = random_params(layer, X)
    lengths = np.array([6, 3, 0])
    mask = np.arange(6) < lengths[:, None]
    got = layer.apply({"params": params}, X, seq_lengths=lengths)
    assert not got[~mask].any() and got[mask].all()
    np.testing.assert_array_equal(got, layer.apply({"params": params}, X, mask=mask))
    # Padding changes nothing: a shorter sequence alone has the same outputs.
    alone = layer.apply({"params": params}, X[1, :3])
    np.testing.assert_allclose(got[1, :3], alone, atol=1e-6)
    time_major = Bidirectional(gruflax.GRU(5, return_sequences=True, time_major=True))
    swapped = time_major.apply({"params": params}, X.swapaxes(0, 1), mask=mask.T)
    np.testing.assert_allclose(swapped.swapaxes(0, 1), got, atol=1e-6)
    forward, backward = reference(params, X)
    outputs = layer.apply({"params": params}, X[:, None])
    wanted = jnp.concatenate([forward, jnp.flip(backward, axis=1)], axis=-1)
    np.testing.assert_allclose(outputs[:, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("time_major", [False, True])
def test_resets_separate_the_parts_of_a_sequence_in_both_directions(time_major):
    layer = Bidirectional(gruflax.GRU(5, return_sequences=True, time_major=time_major))
    swap = (lambda a: np.asarray(a).swapaxes(0, 1)) if time_major else np.asarray
    params = random_params(layer, swap(X))
    reset = np.zeros((3, 6), bool)
    reset[:, 2] = reset[0, 4] = True
    apply = lambda x, **call: swap(layer.apply({"params": params}, swap(x), **call))  # noqa: E731
    got = apply(X, reset=swap(reset))
    np.testing.assert_array_equal(got, apply(X, reset=swap(reset)[..., None]))
    for row, parts in ((0, [(0, 2), (2, 4), (4, 6)]), (1, [(2, 6)])):
        for start, end in parts:
            alone = apply(X[row : row + 1, start:end])
            np.testing.assert_allclose(got[row, start:end], alone[0], atol=1e-6)


def test_the_layers_share_nothing():
    """Neither with each other nor with a cell that both are made from."""
    layer = Bidirectional(gruflax.RNN(gruflax.GRUCell(5), return_sequences=True))
    params = random_params(layer, X)
    chex.assert_trees_all_equal_structs(params["forward_layer"], params["backward_layer"])
    halves = [params[name]["cell"]["kernel"] for name in ("forward_layer", "backward_layer")]
    assert abs(halves[0] - halves[1]).max() > 0.1
    flat = {name: half["cell"] for name, half in params.items()}
    forward, backward = reference(flat, X)
    wanted = jnp.concatenate([forward, jnp.flip(backward, axis=1)], axis=-1)
    np.testing.assert_allclose(layer.apply({"params": params}, X), wanted, atol=1e-6)


def test_dropout_of_each_direction():
    layer = Bidirectional(gruflax.GRU(5, dropout=0.5, return_sequences=True), merge_mode=None)
    params = random_params(layer, X)
    params["backward_layer"] = params["forward_layer"]
    palindrome = np.concatenate([X, X[:, ::-1]], axis=1)
    call = {"training": True, "rngs": {"dropout": KEY}}
    forward, backward = layer.apply({"params": params}, palindrome, **call)
    assert abs(forward - jnp.flip(backward, axis=1)).max() > 0.05
    forward, backward = layer.apply({"params": params}, palindrome)
    np.testing.assert_allclose(forward, jnp.flip(backward, axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="training with dropout needs a key"):
        layer.apply({"params": params}, X, training=True)


def test_losses_and_constraints():
    fields = {
        "kernel_regularizer": "l2",
        "activity_regularizer": "l1",
        "kernel_constraint": "unit_norm",
    }
    layer = Bidirectional(gruflax.GRU(5, **fields), merge_mode=None)
    params = random_params(layer, X)
    outputs, new = layer.apply({"params": params}, X, mutable=["losses"])
    wanted = sum(0.01 * jnp.square(half["kernel"]).sum() for half in params.values())
    wanted += sum(0.01 * abs(output).sum() for output in outputs)
    np.testing.assert_allclose(gruflax.total_loss(new), wanted, rtol=1e-5)
    constraints = gruflax.constraints(layer, X)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = constraints.update(zeros, constraints.init(params), params)
    for half in optax.apply_updates(params, updates).values():
        np.testing.assert_allclose(np.linalg.norm(half["kernel"], axis=0), 1, atol=1e-5)


def test_errors():
    gru = gruflax.GRU
    with pytest.raises(TypeError, match=r"layer must be a gruflax.GRU or gruflax.RNN, got .*Cell"):
        Bidirectional(gruflax.GRUCell(3))
    with pytest.raises(TypeError, match="backward_layer must be a gruflax.GRU .* got 3"):
        Bidirectional(gru(3), backward_layer=3)
    with pytest.raises(ValueError, match=r"merge_mode must be one of .*, got 'average'"):
        Bidirectional(gru(3), "average")
    with pytest.raises(ValueError, match="must have opposite go_backwards, got False for both"):
        Bidirectional(gru(3), backward_layer=gru(3))
    with pytest.raises(ValueError, match="must have opposite go_backwards, got True for both"):
        Bidirectional(gru(3, go_backwards=True))
    for name in ("stateful", "return_sequences", "return_state", "time_major"):
        with pytest.raises(ValueError, match=f"must have the same {name}, got False and True"):
            Bidirectional(gru(3), backward_layer=gru(3, go_backwards=True, **{name: True}))
    layer = Bidirectional(gru(3))
    for states, got in ((STATES[0], "ndarray"), ([STATES[0]], "1"), ([], "0")):
        with pytest.raises(ValueError, match=f"initial_state must be a tuple .*; got {got}"):
            layer.init(KEY, X, initial_state=states)
    with pytest.raises(ValueError, match=r"initial_state must have shape \(3, 3\), got \(3, 5\)"):
        layer.init(KEY, X, initial_state=STATES)
    with pytest.raises(ValueError, match=r"reset must have shape \(3, 6\)"):
        layer.init(KEY, X, reset=np.zeros(6))
    with pytest.raises(ValueError, match=r"inputs must have shape \(..., time, 4\), got \(4,\)"):
        layer.apply(layer.init(KEY, X), X[0, 0])
    unequal = Bidirectional(gru(3), "sum", backward_layer=gru(4, go_backwards=True))
    with pytest.raises(ValueError, match=r"'sum' needs outputs of equal shapes, got \(3, 3\) and"):
        unequal.init(KEY, X)
    with pytest.raises(AttributeError, match="Layer must be stateful"):
        layer.apply(layer.init(KEY, X), method="reset_states", mutable=["recurrent_state"])
