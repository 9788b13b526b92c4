"""What `to_onnx` writes of cells, learned states and lengths, run by onnxruntime."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from gruflax import convert
from gruflax.convert.assembly import parts
from gruflax.keras_names import activations
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack, StackedRNNCells


def made(module, x, drawn):
    return drawn(jax.eval_shape(module.init, jax.random.key(0), x))


def ran(model, x, states=(), **feeds):
    """The outputs of a model, whose initial states are given in order."""
    names = [each.name for each in model.graph.input if each.name.startswith("initial_state")]
    feeds |= dict(zip(names, states, strict=True))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"inputs": x, **feeds})


def read_again(model, **fields):
    """The layers of all nodes of a model."""
    names = [node.name for node in model.graph.node if node.op_type == "GRU"]
    return convert.from_onnx(model, names, **fields)


CELLS = {
    "one": lambda **options: RNN(GRUCell(5, reset_after=False), **options),
    "relu": lambda **options: RNN(GRUCell(5, activation="relu", use_bias=False), **options),
    "stacked": lambda **options: RNN([GRUCell(5), GRUCell(3)], **options),
    "one of several": lambda **options: RNN(StackedRNNCells([GRUCell(5)]), **options),
}


@pytest.mark.parametrize("case", CELLS)
def test_rnns_of_cells(case, x, drawn, close):
    for options in (
        {"return_sequences": True, "return_state": True},
        {"return_sequences": True, "go_backwards": True, "return_state": True},
        {"time_major": True, "go_backwards": True},
    ):
        rnn = CELLS[case](**options)
        variables = made(rnn, x, drawn)
        model = convert.to_onnx(rnn, variables)
        wanted = rnn.apply(variables, x)
        close(ran(model, x), jax.tree.leaves(wanted))
        if not options.get("go_backwards"):
            layer, again = read_again(model, time_major=False)
            close(layer.apply(again, x), jax.tree.leaves(wanted)[0])


def test_rnns_in_other_layers(x, drawn, close, random):
    cells = [GRUCell(5), GRUCell(3)]
    rnn = RNN(GRUCell(5), return_sequences=True, return_state=True)
    stacked = RNN(cells, return_sequences=True, return_state=True, go_backwards=True)
    module = Stack([Bidirectional(rnn, "sum"), stacked])
    variables = made(module, x, drawn)
    states = [random.normal(size=(3, units)).astype(np.float32) for units in (5, 5, 5, 3)]
    nested = (tuple(states[:2]), tuple(states[2:]))
    model = convert.to_onnx(module, variables, initial_state=True)
    wanted = module.apply(variables, x, initial_state=nested)
    close(ran(model, x, states), jax.tree.leaves(wanted))


def test_states_that_are_learned(x, drawn, close, random):
    learned = {"learn_initial_state": True, "return_sequences": True}
    both = Bidirectional(
        GRU(5, **learned),
        backward_layer=GRU(5, return_sequences=True, go_backwards=True),
    )
    module = Stack([both, RNN(GRUCell(3, learn_initial_state=True), return_sequences=True)])
    variables = made(module, x, drawn)
    model = convert.to_onnx(module, variables)
    close(ran(model, x), module.apply(variables, x))
    close(ran(model, x[:1]), module.apply(variables, x[:1]))
    layer, again = read_again(model, time_major=False)
    close(layer.apply(again, x), module.apply(variables, x))
    params, own = again["params"], variables["params"]
    state = params["layers_1"]["initial_state"]
    np.testing.assert_array_equal(state, own["layers_1"]["cell"]["initial_state"])
    assert not params["layers_0"]["backward_layer"]["initial_state"].any()
    # States that are inputs replace those that are learned.
    states = [random.normal(size=(3, units)).astype(np.float32) for units in (5, 5, 3)]
    model = convert.to_onnx(module, variables, initial_state=True)
    nested = (tuple(states[:2]), states[2])
    close(ran(model, x, states), module.apply(variables, x, initial_state=nested))


@pytest.mark.parametrize("write", [convert.to_torch, convert.to_keras, convert.to_haiku])
def test_others_refuse_states_that_are_learned(write, x, drawn):
    for module in (
        GRU(5, learn_initial_state=True),
        RNN(GRUCell(5, learn_initial_state=True)),
        Bidirectional(GRU(5, learn_initial_state=True)),
    ):
        # Haiku's are single cells.
        if write is not convert.to_haiku or isinstance(module, GRU):
            with pytest.raises(ValueError, match="learn_initial_state=False can be converted"):
                write(module, made(module, x, drawn))


ZEROS = {"return_sequences": True, "zero_output_for_mask": True}


@pytest.mark.parametrize(
    "module",
    [
        GRU(5, return_state=True, **ZEROS),
        GRU(5, go_backwards=True, learn_initial_state=True, **ZEROS),
        GRU(5),
        RNN([GRUCell(5), GRUCell(3)], go_backwards=True, **ZEROS),
        Bidirectional(GRU(5, return_sequences=True, return_state=True), "mul"),
        Bidirectional(RNN(GRUCell(5))),
        Stack([GRU(5, return_sequences=True), Bidirectional(GRU(4)), GRU(3)][::2]),
        Stack([Bidirectional(GRU(5, return_sequences=True)), GRU(3, **ZEROS)]),
    ],
    ids=range(8),
)
def test_lengths(module, x, drawn, close):
    variables = made(module, x, drawn)
    model = convert.to_onnx(module, variables, seq_lengths=True)
    for lengths in ([6, 2, 4], [1, 5, 6], [3, 6, 1]):
        lengths = np.array(lengths, np.int32)
        wanted = jax.tree.leaves(module.apply(variables, x, seq_lengths=lengths))
        close(ran(model, x, seq_lengths=lengths), wanted)


def test_activation_layers(x, drawn, close):
    for activation, name, alpha in (
        (activations.ELU(0.7), "Elu", 0.7),
        (activations.LeakyReLU(0.3), "LeakyRelu", 0.3),
        (activations.ReLU(negative_slope=0.1), "LeakyRelu", 0.1),
        (activations.ReLU(threshold=0.4), "ThresholdedRelu", 0.4),
        (activations.ReLU(), "Relu", None),
        (activations.LeakyReLU(0.2), "LeakyRelu", 0.2),
    ):
        gru = GRU(5, activation=activation, return_sequences=True)
        variables = made(gru, x, drawn)
        model = convert.to_onnx(gru, variables)
        close(ran(model, x), gru.apply(variables, x))
        (node,) = (node for node in model.graph.node if node.op_type == "GRU")
        values = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert values["activations"] == [b"Sigmoid", name.encode()]
        assert values.get("activation_alpha") == (None if alpha is None else [np.float32(alpha)])
        again, _ = convert.from_onnx(model)
        slope = isinstance(activation, activations.ReLU) and activation.negative_slope
        wanted = activations.LeakyReLU(0.1) if slope else activation
        assert again.activation == activations.identify(wanted)
    gru = GRU(5, activation=activations.ReLU(max_value=2.0))
    with pytest.raises(ValueError, match="activation must be one that ONNX has, .*max_value=2"):
        convert.to_onnx(gru, made(gru, x, drawn))


class OwnCell(GRUCell):
    """Steps in its own way."""

    def __call__(self, *arguments, **options):
        state, outputs = super().__call__(*arguments, **options)
        return state, 2 * outputs


REFUSED = {
    "own step": (RNN(OwnCell(5)), "an RNN of GRUCells, .* or a Stack of these, got RNN"),
    "two cells in both directions": (
        Bidirectional(RNN([GRUCell(5), GRUCell(3)])),
        "a Bidirectional of a GRU or of an RNN of one GRUCell",
    ),
    "cell": (GRUCell(5), "module must be a gruflax.GRU, .*, got GRUCell"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_modules_that_are_refused(case, x, drawn):
    module, message = REFUSED[case]
    arguments = (np.ones((3, 5), np.float32), x[:, 0]) if case == "cell" else (x,)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), *arguments))
    with pytest.raises(TypeError, match=message):
        convert.to_onnx(module, variables)


def test_lengths_that_are_refused(x, drawn):
    for module, message in (
        (GRU(5, return_sequences=True), "zero_output_for_mask must be equal to return_sequences"),
        (GRU(5, zero_output_for_mask=True), "must be equal .* got True and False"),
        (
            Stack([GRU(5, return_sequences=True, go_backwards=True), GRU(5)]),
            "seq_lengths must be False where a layer but the last has go_backwards=True",
        ),
    ):
        variables = made(module, x, drawn)
        convert.to_onnx(module, variables)
        with pytest.raises(ValueError, match=message):
            convert.to_onnx(module, variables, seq_lengths=True)


def random_layer(random, last):
    """One layer of a stack, of a random kind with random options."""

    def fields():
        return {
            "activation": random.choice(["tanh", "relu", "softsign"]),
            "use_bias": bool(random.integers(2)),
            "learn_initial_state": bool(random.integers(2)),
        }

    units, reset_after = int(random.integers(1, 5)), bool(random.integers(2))
    options = {"return_sequences": True, "return_state": True}
    kind = random.integers(3)
    if kind == 0:
        return GRU(units, reset_after=reset_after, go_backwards=last, **fields(), **options)
    rnn, other = (RNN(GRUCell(units, reset_after=reset_after, **fields()), **options) for _ in "ab")
    if kind == 1:
        return RNN([rnn.cell, GRUCell(3, **fields())], **options)
    mode = str(random.choice(["concat", "sum", "mul", "ave"]))
    return Bidirectional(rnn, mode, other.clone(go_backwards=True))


@pytest.mark.parametrize("seed", range(3))
def test_random_stacks(seed, x, drawn, close):
    """There and back."""
    random = np.random.default_rng(seed)
    module = Stack([random_layer(random, False), random_layer(random, True)])
    variables = made(module, x, drawn)
    model = convert.to_onnx(module, variables)
    wanted = jax.tree.leaves(module.apply(variables, x))
    close(ran(model, x), wanted)
    layer, again = read_again(model, time_major=False)
    if getattr(module.layers[-1], "merge_mode", "concat") == "concat":
        close(layer.apply(again, x), wanted[0])
    taken = parts(layer, again, learned_state=True)
    for ours, theirs in zip(taken, parts(module, variables, learned_state=True), strict=True):
        for one, other in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_array_equal(one.params["kernel"], other.params["kernel"])
