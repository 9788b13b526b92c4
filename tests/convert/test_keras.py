"""Keras' layers, live on its JAX backend, and what older ones left behind."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import oracle
import pytest

import gruflax
from gruflax import convert
from gruflax.compat import v1
from gruflax.linen import Bidirectional, Stack


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def layer(x, random):
    """Makes a Keras layer with random weights."""

    def make(layer):
        layer(x)
        layer.set_weights([random.normal(size=each.shape) * 0.6 for each in layer.get_weights()])
        return layer

    return make


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reset_after": False, "return_sequences": True, "activation": "relu"},
        {"use_bias": False, "return_state": True, "recurrent_activation": "hard_sigmoid"},
        {"go_backwards": True, "reset_after": False, "use_bias": False, "dropout": 0.3},
    ],
)
def test_gru(arguments, layer, x, equal, close):
    theirs = layer(keras.layers.GRU(5, **arguments))
    module, variables = convert.from_keras(theirs)
    config = theirs.get_config()
    assert {key: getattr(module, key) for key in arguments} == {k: config[k] for k in arguments}
    close(module.apply(variables, x), theirs(x))
    weights = convert.to_keras(module, variables)
    equal(weights, theirs.get_weights())
    again = keras.layers.GRU.from_config(module.get_config() | {"name": "again"})
    again.build(x.shape)
    again.set_weights(weights)
    close(again(x), theirs(x))


def test_fields_win(layer, x, close):
    theirs = layer(keras.layers.GRU(5))
    module, variables = convert.from_keras(theirs, return_sequences=True, time_major=True)
    sequences = module.apply(variables, x.swapaxes(0, 1))
    close(sequences[-1], theirs(x))


def test_weight_list(layer, x, equal, close):
    for arguments in ({}, {"reset_after": False}, {"use_bias": False}):
        theirs = layer(keras.layers.GRU(5, return_sequences=True, **arguments))
        module, variables = convert.from_keras(theirs.get_weights(), return_sequences=True)
        close(module.apply(variables, x), theirs(x))
        # A dict that went through JAX is sorted by name.
        equal(convert.to_keras(jax.tree.map(np.asarray, variables["params"])), theirs.get_weights())
    theirs = layer(keras.layers.GRU(5, reset_after=False, use_bias=False))
    module, variables = convert.from_keras(theirs.get_weights(), reset_after=False)
    close(module.apply(variables, x), theirs(x))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave"])
def test_bidirectional(mode, layer, x, equal, close):
    inner = keras.layers.GRU(5, return_sequences=mode != "mul")
    theirs = layer(keras.layers.Bidirectional(inner, merge_mode=mode))
    module, variables = convert.from_keras(theirs)
    assert isinstance(module, Bidirectional)
    close(module.apply(variables, x), theirs(x))
    equal(convert.to_keras(module, variables), theirs.get_weights())


def test_bidirectional_with_a_layer_of_its_own_backwards(layer, x, equal, close):
    theirs = layer(
        keras.layers.Bidirectional(
            keras.layers.GRU(5),
            backward_layer=keras.layers.GRU(5, activation="relu", go_backwards=True),
        )
    )
    module, variables = convert.from_keras(theirs)
    close(module.apply(variables, x), theirs(x))
    equal(convert.to_keras(module, variables), theirs.get_weights())


def test_rnn_and_cell(layer, x, equal, close):
    theirs = layer(keras.layers.RNN(keras.layers.GRUCell(5), return_sequences=True))
    module, variables = convert.from_keras(theirs)
    close(module.apply(variables, x), theirs(x))
    equal(convert.to_keras(module, variables), theirs.get_weights())
    params = convert.from_keras(theirs.cell)
    close(gruflax.gru_sequence(params, x)[0], theirs(x))
    equal(convert.to_keras(gruflax.GRUCell(5), {"params": params}), theirs.get_weights())


def test_stacked_cells(layer, x, equal, close):
    cells = [keras.layers.GRUCell(5, use_bias=False), keras.layers.GRUCell(3, reset_after=False)]
    theirs = layer(keras.layers.RNN(keras.layers.StackedRNNCells(cells), return_sequences=True))
    module, variables = convert.from_keras(theirs)
    close(module.apply(variables, x), theirs(x))
    equal(convert.to_keras(module, variables), theirs.get_weights())


def test_model_and_stack(random, x, equal, close):
    model = keras.Sequential(
        [
            keras.layers.GRU(5, return_sequences=True, name="lower"),
            keras.layers.GRU(3, name="upper", reset_after=False),
            keras.layers.Dense(2),
        ]
    )
    model.build(x.shape)
    model.set_weights([random.normal(size=each.shape) for each in model.get_weights()])
    module, variables = convert.from_keras(model, ["lower", "upper"])
    assert isinstance(module, Stack)
    close(module.apply(variables, x), model.layers[1](model.layers[0](x)))
    equal(convert.to_keras(module, variables), model.get_weights()[:6])
    module, variables = convert.from_keras(model, "upper")
    equal(convert.to_keras(module, variables), model.get_weights()[3:6])
    with pytest.raises(ValueError, match=r"layers: \['lower', 'upper'\], got None"):
        convert.from_keras(model)


def cudnn_weights(params):
    """What Keras 2's CuDNNGRU held of these parameters, by its own equations of the inverse map."""
    gates = [np.split(params[name], 3, axis=-1) for name in ("kernel", "recurrent_kernel")]
    # Keras 2: `kernel.T.reshape(kernel.shape, order="C")` goes the other way.
    kernel = [gate.reshape(-1, order="F").reshape(gate.shape) for gate in gates[0]]
    recurrent = [gate.T for gate in gates[1]]
    join = lambda parts: np.concatenate(parts, axis=-1)  # noqa: E731
    return [join(kernel), join(recurrent), params["bias"].reshape(-1)]


def test_cudnn_gru(x, drawn, equal, random):
    params = drawn(gruflax.GRU(5).init(jax.random.key(0), x))["params"]
    weights = cudnn_weights(params)
    module, variables = convert.from_keras(weights)
    assert module.reset_after
    equal(variables["params"], params)
    # cuDNN has a row for each unit of each gate.
    rows = weights[0].reshape(-1)[: 4 * 5 * 3]
    assert rows.size == params["kernel"].size
    unit, gate = 2, 1
    block = np.split(weights[0], 3, axis=-1)[gate].reshape(5, 4)
    np.testing.assert_array_equal(block[unit], params["kernel"][:, gate * 5 + unit])


class Layer:
    """A layer of an older Keras: what `from_keras` reads of it."""

    def __init__(self, config, weights):
        self.get_config = lambda: config
        self.get_weights = lambda: weights


def old_layer(class_name, config, weights):
    return type(class_name, (Layer,), {})(config, weights)


def test_hard_sigmoid_of_keras_2(x):
    for reset_after in (True, False):
        case = f"act_tanh_hard_sigmoid_ra{int(reset_after)}"
        params = oracle.golden_params(reset_after, True)
        config, _ = oracle.golden_case(case)
        written = v1.GRU(5, **config).get_config() | {"implementation": 1}
        theirs = old_layer("GRU", written, list(params.values()))
        module, variables = convert.from_keras(theirs, return_sequences=True)
        inputs = oracle.golden_inputs()
        outputs = module.apply(variables, inputs["x"], initial_state=inputs["h0"])
        wanted = oracle.golden("tf22")[case]["seq"]
        np.testing.assert_allclose(outputs, wanted, atol=2e-6)


@pytest.mark.parametrize("fields", [{"time_major": True, "implementation": 2}, {"dropout": 0.5}])
def test_fields_that_win_do_not_change_what_keras_2_meant(fields, x, drawn):
    gru = v1.GRU(5)
    params = drawn(gru.init(jax.random.key(0), x))["params"]
    weights = [params[name] for name in ("kernel", "recurrent_kernel", "bias")]
    live = old_layer("GRU", gru.get_config(), weights)
    assert convert.from_keras(live, **fields)[0].recurrent_activation is v1.hard_sigmoid
    both = {"layer": {"class_name": "GRU", "config": gru.get_config()}}
    live = old_layer("Bidirectional", both, weights * 2)
    live.forward_layer = live.backward_layer = old_layer("GRU", gru.get_config(), weights)
    for theirs, wanted in (("hard_sigmoid", v1.hard_sigmoid), (jax.nn.hard_sigmoid,) * 2):
        layer = convert.from_keras(live, activation=theirs, **fields)[0].layer
        assert layer.config.recurrent_activation is v1.hard_sigmoid
        assert layer.config.activation == gruflax.GRUConfig(wanted).activation


def test_cudnn_layer(x, drawn, equal):
    params = drawn(gruflax.GRU(5).init(jax.random.key(0), x))["params"]
    config = {"name": "cu_dnngru", "trainable": True, "units": 5, "return_sequences": True}
    module, variables = convert.from_keras(old_layer("CuDNNGRU", config, cudnn_weights(params)))
    assert (module.reset_after, module.recurrent_activation) == (True, "sigmoid")
    equal(variables["params"], params)
    written = {"units": 5, "reset_after": False, "recurrent_activation": "sigmoid"}
    with pytest.raises(ValueError, match=r"bias \(3u,\) for reset_after=False, got"):
        convert.from_keras(old_layer("GRU", written, cudnn_weights(params)))


def test_errors(x):
    with pytest.raises(TypeError, match="a Keras layer or model, a weight list or a path, got int"):
        convert.from_keras(3)
    with pytest.raises(ValueError, match="weights must be .*, got 1 arrays"):
        convert.from_keras([x])
    with pytest.raises(ValueError, match="the layer must have weights: build it first"):
        convert.from_keras(keras.layers.GRU(3))
    with pytest.raises(ValueError, match="name chooses in a model or a file; .*, got 'gru'"):
        convert.from_keras(keras.layers.GRU(3), "gru")
    with pytest.raises(ValueError, match="source is a list, got 'gru'"):
        convert.from_keras([x[0], x[0]], "gru")


def of_sin(x):
    return keras.ops.sin(x)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"recurrent_initializer": keras.initializers.Constant(np.eye(5, 15))}, {}),
        ({"kernel_initializer": lambda shape, dtype=None: np.ones(shape)}, {}),
        (
            {
                "kernel_initializer": keras.initializers.RandomNormal(
                    stddev=0.1, seed=keras.random.SeedGenerator(5)
                )
            },
            {},
        ),
        ({"activation": of_sin}, {"activation": jnp.sin}),
    ],
    ids=["array", "callable", "SeedGenerator", "activation"],
)
def test_layers_that_only_keras_can_make(options, fields, x, drawn, close):
    layer = keras.layers.GRU(5, return_sequences=True, **options)
    layer.build(x.shape)
    layer.set_weights(drawn(layer.get_weights()))
    gru, variables = convert.from_keras(layer, **fields)
    close(gru.apply(variables, x), layer(x))
    if fields:
        with pytest.raises(ValueError, match="^activation must be .* Keras, got .* of_sin of .*"):
            convert.from_keras(layer)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ({"use_bias": True}, {"use_bias": False}),
        ({"use_bias": False}, {"use_bias": True}),
        ({"reset_after": True}, {"reset_after": False}),
        ({"reset_after": False, "use_bias": False}, {"reset_after": True}),
    ],
)
def test_directions_that_differ(forward, backward, x, drawn, close, equal, tmp_path):
    layer = keras.layers.Bidirectional(
        keras.layers.GRU(5, return_sequences=True, **forward),
        backward_layer=keras.layers.GRU(5, return_sequences=True, go_backwards=True, **backward),
    )
    layer.build(x.shape)
    layer.set_weights(drawn(layer.get_weights()))
    module, variables = convert.from_keras(layer)
    close(module.apply(variables, x), layer(x))
    equal(convert.to_keras(module, variables), layer.get_weights())
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.save_weights(tmp_path / "model.weights.h5")
    module, again = convert.from_keras(tmp_path / "model.weights.h5", return_sequences=True)
    equal(again, variables)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(4),
        keras.layers.RNN(keras.layers.LSTMCell(4)),
        keras.layers.Bidirectional(keras.layers.LSTM(4)),
    ],
    ids=["LSTM", "RNN", "Bidirectional"],
)
def test_what_is_no_gru(layer, x):
    layer.build(x.shape)
    with pytest.raises(ValueError, match="must be one of .*GRU.*, got LSTM"):
        convert.from_keras(layer)
