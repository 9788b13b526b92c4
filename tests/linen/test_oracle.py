"""The layers against live Keras on its JAX backend, in configurations drawn at random."""

import jax
import keras
import numpy as np
import pytest
from flax import linen as nn

import gruflax


pytestmark = pytest.mark.filterwarnings("ignore")

ACTIVATIONS = ("tanh", "sigmoid", "relu6", "softsign", "hard_sigmoid", "linear", "elu", "softmax")
# Few, because each has programs of its own to be compiled.
SHAPES = ((3, 5, 2, 4), (2, 6, 4, 3), (1, 1, 3, 1))
REGULARIZERS = (None, "l1", "l2", {"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}})


@pytest.fixture(autouse=True)
def keras_promotes():
    """Keras relies on what JAX allows by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def draw(seed):
    """Draws arguments of the layer, of its call, and arrays."""
    random = np.random.default_rng(seed)
    pick = lambda *choices: choices[random.integers(len(choices))]  # noqa: E731
    flag = lambda: bool(random.integers(2))  # noqa: E731
    batch, time, features, units = pick(*SHAPES)
    cell = {
        "units": units,
        "activation": pick(*ACTIVATIONS, None),
        "recurrent_activation": pick(*ACTIVATIONS[:5]),
        "use_bias": flag(),
        "reset_after": flag(),
        "kernel_initializer": "he_normal",
        "bias_initializer": "glorot_uniform" if flag() else "random_normal",
        "kernel_regularizer": pick(*REGULARIZERS),
        "recurrent_regularizer": pick(*REGULARIZERS, "orthogonal_regularizer")
        if units > 1
        else None,
        "bias_regularizer": pick(*REGULARIZERS),
    }
    mask = random.random((batch, time)) < 0.6 if flag() else None
    layer = {
        "return_sequences": flag(),
        "return_state": flag(),
        "go_backwards": flag(),
        # Keras unrolled treats masks in ways of its own.
        "unroll": flag() and mask is None,
        "zero_output_for_mask": flag(),
    }
    arrays = {
        "x": random.normal(size=(batch, time, features)).astype(np.float32),
        "mask": mask,
        "h": random.normal(size=(batch, units)).astype(np.float32) if flag() else None,
    }
    return cell, layer, pick(*REGULARIZERS), arrays


def weights_of(layer):
    names = ("kernel", "recurrent_kernel", "bias")
    return dict(zip(names, map(np.asarray, layer.get_weights()), strict=False))


def compare(ours, theirs):
    ours, theirs = ((value,) if not isinstance(value, tuple) else value for value in (ours, theirs))
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("seed", range(24))
def test_gru(seed):
    cell, layer, activity, arrays = draw(seed)
    arguments = cell | layer | {"activity_regularizer": activity}
    keras_layer = keras.layers.GRU(**arguments)
    theirs = keras_layer(arrays["x"], mask=arrays["mask"], initial_state=arrays["h"])
    variables = {"params": weights_of(keras_layer)}
    by_config = gruflax.GRU.from_config(keras_layer.get_config())
    gru = by_config if seed % 2 else gruflax.GRU(**arguments)
    ours, losses = gru.apply(
        variables, arrays["x"], mask=arrays["mask"], initial_state=arrays["h"], mutable=["losses"]
    )
    compare(ours, theirs)
    sown = losses.get("losses", {})
    # Keras 3.14 began to divide the activity loss by the batch; gruflax is 3.6.
    activities = [float(loss) / len(arrays["x"]) for loss in sown.pop("activity", ())]
    order = ("kernel", "recurrent_kernel", "bias")
    wanted = activities + [float(sown[name]) for name in order if name in sown]
    np.testing.assert_allclose(wanted, [float(loss) for loss in keras_layer.losses], rtol=1e-4)


@pytest.mark.parametrize("seed", range(100, 110))
def test_rnn_of_a_cell(seed):
    cell, layer, _, arrays = draw(seed)
    keras_layer = keras.layers.RNN(keras.layers.GRUCell(**cell), **layer)
    initial = None if arrays["h"] is None else [arrays["h"]]
    theirs = keras_layer(arrays["x"], mask=arrays["mask"], initial_state=initial)
    variables = {"params": {"cell": weights_of(keras_layer)}}
    for rnn in (
        gruflax.RNN(gruflax.GRUCell(**cell), **layer),
        gruflax.RNN.from_config(keras_layer.get_config()),
    ):
        ours = rnn.apply(variables, arrays["x"], mask=arrays["mask"], initial_state=initial)
        compare(ours, theirs)


@pytest.mark.parametrize("seed", range(200, 210))
def test_cell(seed):
    cell, _, _, arrays = draw(seed)
    x = arrays["x"][:, 0]
    h = np.random.default_rng(seed).normal(size=(len(x), cell["units"])).astype(np.float32)
    keras_cell = keras.layers.GRUCell(**cell)
    output, [state] = keras_cell(x, [h])
    ours = gruflax.GRUCell(**cell)
    variables = {"params": weights_of(keras_cell)}
    states, ours_output = ours.apply(variables, inputs=x, states=[h])
    assert isinstance(states, list)
    compare((states[0], ours_output), (state, output))
    compare(ours.apply(variables, h, x), (state, output))


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("dropout, recurrent_dropout", [(0.0, 0.4), (0.3, 0.4), (0.3, 0.0)])
def test_dropout_with_keras_own_masks(reset_after, dropout, recurrent_dropout):
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 5, 4)).astype(np.float32)
    arguments = {
        "units": 6,
        "reset_after": reset_after,
        "dropout": dropout,
        "recurrent_dropout": recurrent_dropout,
        "seed": 11,
    }
    layer = keras.layers.GRU(**arguments)
    theirs = layer(x, training=True)
    config = gruflax.GRUConfig(
        reset_after=reset_after, dropout=dropout, recurrent_dropout=recurrent_dropout
    )
    counter = iter(range(6))

    def masks(rate, size):
        if not rate:
            return None
        keys = [np.array([11, next(counter)], np.uint32) for _ in range(config.dropout_mask_count)]
        keep = [jax.random.bernoulli(key, p=1 - rate, shape=(3, size)) for key in keys]
        return np.stack(keep).astype(np.float32) / np.float32(1 - rate)

    ours, _ = gruflax.gru_sequence(
        weights_of(layer),
        x,
        config=config,
        dropout_masks=gruflax.DropoutMasks(masks(dropout, 4), masks(recurrent_dropout, 6)),
        return_sequences=False,
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_stateful_calls():
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 5, 4)).astype(np.float32)
    layer = keras.layers.GRU(6, stateful=True, return_sequences=True)
    theirs = [np.asarray(layer(x)) for _ in range(3)]
    layer.reset_state()
    theirs.append(np.asarray(layer(x)))
    ours = gruflax.GRU(6, stateful=True, return_sequences=True)
    variables = ours.init(jax.random.key(0), x)
    variables = {**variables, "params": weights_of(layer)}
    for index, wanted in enumerate(theirs):
        if index == 3:
            variables = gruflax.reset_states(variables)
        outputs, state = ours.apply(variables, x, mutable=["recurrent_state"])
        variables = {**variables, **state}
        np.testing.assert_allclose(outputs, wanted, atol=2e-6)


def test_docstring_example_of_keras():
    inputs = np.random.default_rng(0).random((32, 10, 8)).astype(np.float32)
    rnn = gruflax.RNN(gruflax.GRUCell(4), return_sequences=True, return_state=True)
    (outputs, state), _ = rnn.init_with_output(jax.random.key(0), inputs)
    assert (outputs.shape, state.shape) == ((32, 10, 4), (32, 4))


def test_initial_distributions():
    x = np.zeros((1, 1, 64), np.float32)
    layer = keras.layers.GRU(128)
    layer(x)
    theirs = weights_of(layer)
    ours = gruflax.GRU(128).init(jax.random.key(0), x)["params"]
    quantiles = np.linspace(0.01, 0.99, 21)
    for name in ("kernel", "recurrent_kernel"):
        left, right = (np.quantile(value[name], quantiles) for value in (ours, theirs))
        np.testing.assert_allclose(left, right, atol=0.03 * right.max())
    np.testing.assert_array_equal(ours["bias"], theirs["bias"])
    recurrent = np.asarray(ours["recurrent_kernel"])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(128), atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "float16"])
def test_dtype_policies(policy):
    layer = keras.layers.GRU(4, dtype=policy, recurrent_initializer="glorot_uniform")
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    theirs = layer(x)
    gru = gruflax.GRU.from_config(layer.get_config())
    variables = gru.init(jax.random.key(0), x)
    weights = weights_of(layer)
    for name, value in variables["params"].items():
        assert (value.dtype, value.shape) == (weights[name].dtype, weights[name].shape)
    ours = gru.apply({"params": weights}, x)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(
        ours.astype(np.float32),
        np.asarray(theirs, np.float32),
        atol=2e-6 if policy == "float32" else 2e-2,
    )
    assert gru.get_config()["dtype"] == policy


def test_keras_reads_our_configs():
    fields = {
        "units": 3,
        "activation": "hard_sigmoid",
        "recurrent_activation": None,
        "kernel_initializer": "he_normal",
        "recurrent_regularizer": "l2",
        "bias_constraint": {"class_name": "MaxNorm", "config": {"max_value": 3}},
        "dropout": 0.2,
        "return_sequences": True,
        "go_backwards": True,
    }
    gru = gruflax.GRU(**fields, dtype="bfloat16")
    theirs = keras.layers.GRU.from_config(gru.get_config())
    again = gruflax.GRU.from_config(theirs.get_config())
    assert again.get_config() | {"name": None} == gru.get_config()
    assert again.bias_constraint == gruflax.keras_names.constraints.MaxNorm(3)
    rnn = gruflax.RNN(gruflax.GRUCell(3), return_state=True)
    theirs = keras.layers.RNN.from_config(rnn.get_config())
    assert isinstance(theirs.cell, keras.layers.GRUCell) and theirs.return_state
    again = gruflax.RNN.from_config(theirs.get_config())
    assert again.return_state and again.cell.units == 3


def test_masking_in_a_keras_like_model():
    """A mask computed from the inputs, as Keras' Masking layer does, through two stacked GRUs."""
    random = np.random.default_rng(1)
    x = random.normal(size=(4, 6, 3)).astype(np.float32)
    x[random.random((4, 6)) < 0.3] = 0
    mask = (x != 0).any(axis=-1)
    first, second = keras.layers.GRU(5, return_sequences=True), keras.layers.GRU(2)
    theirs = second(first(x, mask=mask), mask=mask)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            x = gruflax.GRU(5, return_sequences=True, name="first")(x, mask=mask)
            return gruflax.GRU(2, name="second")(x, mask=mask)

    params = {"first": weights_of(first), "second": weights_of(second)}
    np.testing.assert_allclose(Model().apply({"params": params}, x, mask), theirs, atol=2e-6)
