"""ONNX models: checked by onnx, run by onnxruntime."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import gruflax
from gruflax import convert
from gruflax.compat import v1
from gruflax.linen import Bidirectional, Stack


def made(module, x, drawn):
    return drawn(module.init(jax.random.key(0), x))


def ran(model, x, **inputs):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"inputs": x, **inputs})


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_gru(reset_after, use_bias, x, drawn, equal, close):
    for options in (
        {},
        {"return_sequences": True, "return_state": True},
        {"return_sequences": True, "go_backwards": True, "activation": "relu"},
        {"time_major": True, "return_sequences": True},
    ):
        gru = gruflax.GRU(5, reset_after=reset_after, use_bias=use_bias, **options)
        variables = made(gru, x, drawn)
        model = convert.to_onnx(gru, variables)
        wanted = gru.apply(variables, x)
        close(ran(model, x), wanted)
        module, again = convert.from_onnx(model)
        equal(again, variables)
        own = {"return_sequences": False, "time_major": False} | options
        close(module.clone(**own).apply(again, x), wanted)


@pytest.mark.parametrize(
    "activation",
    [
        ("relu", "hard_sigmoid"),
        ("leaky_relu", v1.hard_sigmoid),
        (None, "sigmoid"),
        ("softplus", "sigmoid"),
        ("elu", "softsign"),
    ],
)
def test_activations(activation, x, drawn, equal, close):
    gru = gruflax.GRU(5, activation=activation[0], recurrent_activation=activation[1])
    variables = made(gru, x, drawn)
    model = convert.to_onnx(gru, variables)
    close(ran(model, x), gru.apply(variables, x))
    module, _ = convert.from_onnx(model)
    assert (module.activation or "linear", module.recurrent_activation) == (
        activation[0] or "linear",
        activation[1],
    )


def test_activations_with_arguments(x, drawn, close):
    """What onnxruntime makes of arguments that Keras has no name for."""
    gru = gruflax.GRU(5, return_sequences=True)
    variables = made(gru, x, drawn)
    model = convert.to_onnx(gru, variables)
    (node,) = (node for node in model.graph.node if node.op_type == "GRU")
    (names,) = (each for each in node.attribute if each.name == "activations")
    for gate, candidate, alphas, betas in (
        ("HardSigmoid", "ScaledTanh", [0.3, 1.2], [0.4, 0.7]),
        ("Sigmoid", "Affine", [0.5], [0.1]),
        ("hardsigmoid", "LeakyRelu", [0.25, 0.05], [0.5]),
        ("Sigmoid", "ThresholdedRelu", [0.2], []),
        ("Sigmoid", "Elu", [0.7], []),
    ):
        names.strings[:] = [gate.encode(), candidate.encode()]
        others = [each for each in node.attribute if not each.name.startswith("activation_")]
        del node.attribute[:]
        node.attribute.extend(others)
        for name, values in (("activation_alpha", alphas), ("activation_beta", betas)):
            if values:
                node.attribute.append(onnx.helper.make_attribute(name, values))
        names = next(each for each in node.attribute if each.name == "activations")
        module, again = convert.from_onnx(model, time_major=False)
        close(ran(model, x), module.apply(again, x))
        close(ran(convert.to_onnx(module, again), x), module.apply(again, x))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(mode, x, drawn, equal, close):
    for sequences in (True, False):
        gru = gruflax.GRU(5, return_sequences=sequences, return_state=True)
        module = Bidirectional(gru, merge_mode=mode)
        variables = made(module, x, drawn)
        model = convert.to_onnx(module, variables)
        close(ran(model, x), jax.tree.leaves(module.apply(variables, x)))
        again, same = convert.from_onnx(model, return_sequences=sequences, time_major=False)
        equal(same, variables)
        if mode == "concat":
            close(again.apply(same, x), ran(model, x)[0])


def test_two_activations(x, drawn, close):
    module = Bidirectional(
        gruflax.GRU(5, return_sequences=True),
        backward_layer=gruflax.GRU(
            5, activation="relu", return_sequences=True, go_backwards=True, use_bias=False
        ),
    )
    variables = made(module, x, drawn)
    model = convert.to_onnx(module, variables)
    close(ran(model, x), module.apply(variables, x))
    again, same = convert.from_onnx(model, time_major=False)
    close(again.apply(same, x), module.apply(variables, x))


def test_stack(x, drawn, equal, close):
    module = Stack(
        [
            Bidirectional(gruflax.GRU(5, return_sequences=True)),
            gruflax.GRU(3, return_sequences=True, reset_after=False),
        ]
    )
    variables = made(module, x, drawn)
    model = convert.to_onnx(module, variables, opset=21)
    close(ran(model, x), module.apply(variables, x))
    names = [node.name for node in model.graph.node if node.op_type == "GRU"]
    again, same = convert.from_onnx(model, names, time_major=False)
    equal(same, variables)
    close(again.apply(same, x), module.apply(variables, x))
    with pytest.raises(ValueError, match="name must be one of the model's GRU nodes: .*got None"):
        convert.from_onnx(model)


def test_streaming(x, drawn, close, random):
    gru = gruflax.GRU(5, return_sequences=True, return_state=True)
    variables = made(gru, x, drawn)
    model = convert.to_onnx(gru, variables, initial_state=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    start = state = random.normal(size=(1, 5)).astype(np.float32)
    outputs = []
    for step in range(x.shape[1]):
        feed = {"inputs": x[:1, step : step + 1], "initial_state": state}
        output, state = session.run(None, feed)
        outputs.append(output[:, 0])
    wanted = gru.apply(variables, x[:1], initial_state=start)
    close((np.stack(outputs, axis=1), state), wanted)


def test_file(tmp_path, x, drawn, equal):
    gru = gruflax.GRU(5)
    variables = made(gru, x, drawn)
    onnx.save(convert.to_onnx(gru, variables), tmp_path / "gru.onnx")
    equal(convert.from_onnx(tmp_path / "gru.onnx")[1], variables)
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "gru.onnx").read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged.onnx must be a whole ONNX file"):
        convert.from_onnx(tmp_path / "damaged.onnx")
    with pytest.raises(FileNotFoundError):
        convert.from_onnx(tmp_path / "missing.onnx")


def test_weights_in_constant_nodes(x, drawn, equal):
    """As some exporters write them."""
    gru = gruflax.GRU(5)
    variables = made(gru, x, drawn)
    graph = convert.to_onnx(gru, variables).graph
    nodes = [
        onnx.helper.make_node("Constant", [], [array.name], value=array)
        for array in graph.initializer
    ]
    graph = onnx.helper.make_graph([*nodes, *graph.node], "gru", graph.input, graph.output)
    equal(convert.from_onnx(onnx.helper.make_model(graph))[1], variables)


def test_biases_are_added_up_before_the_reset(x, drawn, close):
    gru = gruflax.GRU(5, reset_after=False)
    model = convert.to_onnx(gru, made(gru, x, drawn))
    (node,) = (node for node in model.graph.node if node.op_type == "GRU")
    (bias,) = (each for each in model.graph.initializer if each.name == node.input[3])
    values = np.random.default_rng(1).normal(size=(1, 30)).astype(np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    module, variables = convert.from_onnx(model, time_major=False, return_sequences=False)
    close(ran(model, x), module.apply(variables, x))


@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    [
        (None, "float16"),
        (None, "bfloat16"),
        (None, "float32"),
        (None, "float64"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "bfloat16"),
        ("float64", "float32"),
    ],
)
def test_dtypes(dtype, param_dtype, x, drawn, x64):
    options = {"dtype": dtype, "param_dtype": param_dtype, "return_sequences": True}
    gru = gruflax.GRU(5, return_state=True, **options)
    variables = drawn(jax.eval_shape(gru.init, jax.random.key(0), x))
    computed = np.dtype(dtype or param_dtype)
    model = convert.to_onnx(gru, variables, initial_state=True, opset=22)
    onnx.checker.check_model(model, full_check=True)
    wanted = onnx.helper.np_dtype_to_tensor_dtype(computed)
    ends = (*model.graph.input, *model.graph.output)
    assert [each.type.tensor_type.elem_type for each in ends] == [wanted] * 4
    state = np.ones((3, 5), computed)
    feed = {"inputs": x.astype(computed), "initial_state": state}
    found = [ReferenceEvaluator(model).run(None, feed)]
    if computed in (np.float16, np.float32):
        # onnxruntime has no others on a CPU.
        found.append(ran(model, feed.pop("inputs"), **feed))
    wanted = gru.apply(variables, x.astype(computed), initial_state=state)
    for outputs in found:
        for ours, theirs in zip(outputs, wanted, strict=True):
            assert ours.dtype == theirs.dtype == computed
            ours, theirs = (np.asarray(each, "float64") for each in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, atol=30 * jnp.finfo(computed).eps)


def test_dtypes_of_several_layers(x, drawn, close):
    """Weights of several dtypes are cast as the layers cast them."""
    options = {"dtype": jnp.float32, "return_sequences": True}
    module = Stack(
        [
            Bidirectional(
                gruflax.GRU(5, param_dtype="float16", **options),
                "ave",
                gruflax.GRU(5, go_backwards=True, **options),
            ),
            gruflax.GRU(3, param_dtype="bfloat16", return_sequences=True),
        ]
    )
    variables = made(module, x, drawn)
    close(ran(convert.to_onnx(module, variables), x), module.apply(variables, x))
    for layers in (
        [gruflax.GRU(5, dtype="float16", return_sequences=True), gruflax.GRU(3)],
        [Bidirectional(gruflax.GRU(5), "sum", gruflax.GRU(5, dtype="float16", go_backwards=True))],
    ):
        module = Stack(layers)
        variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x))
        with pytest.raises(ValueError, match="dtype must be the same .*, got .*float16"):
            convert.to_onnx(module, variables)


def test_float64_does_not_ask_for_jax_to_have_it(x, random):
    gru = gruflax.GRU(5, param_dtype="float64", return_sequences=True)
    shapes = {"kernel": (4, 15), "recurrent_kernel": (5, 15), "bias": (2, 15)}
    params = {name: random.normal(size=shape) for name, shape in shapes.items()}
    model = convert.to_onnx(gru, params)
    found = ReferenceEvaluator(model).run(None, {"inputs": x.astype("float64")})[0]
    with jax.enable_x64(True):
        wanted = gru.apply({"params": params}, x.astype("float64"))
        np.testing.assert_allclose(found, wanted, atol=1e-14)


def test_errors(x, drawn):
    def refused(module, message):
        with pytest.raises(ValueError, match=message):
            convert.to_onnx(module, made(module, x, drawn))

    refused(gruflax.GRU(5, activation="gelu"), "activation must be one that ONNX has, .*'gelu'")
    refused(gruflax.GRU(5, stateful=True), "ONNX has no stateful GRU")
    refused(
        gruflax.GRU(5, param_dtype="bfloat16"),
        "dtype must be .*'float64'.* for ONNX's opset 17, got bfloat16: that needs opset 22",
    )
    gru, after = gruflax.GRU(5), gruflax.GRU(5, reset_after=False)
    before = after.clone(go_backwards=True)
    refused(Bidirectional(gru, backward_layer=before), "both directions must have the same")
    refused(Bidirectional(before, backward_layer=after), "forward layer .* must not go backwards")
    variables = made(gru, x, drawn)
    with pytest.raises(ValueError, match="opset must be an integer from 14 on, got 13"):
        convert.to_onnx(gru, variables, opset=13)
    with pytest.raises(TypeError, match="source must be an onnx.ModelProto or a path, got 3"):
        convert.from_onnx(3)
    model = convert.to_onnx(gru, variables)
    (node,) = (node for node in model.graph.node if node.op_type == "GRU")
    node.attribute.append(onnx.helper.make_attribute("clip", 3.0))
    with pytest.raises(ValueError, match="clip of the GRU node must be absent, got 3.0: it lim"):
        convert.from_onnx(model)
    del node.attribute[-1]
    node.input[1] = "elsewhere"
    with pytest.raises(ValueError, match="W of the GRU node must be a constant of the model; 'e"):
        convert.from_onnx(model)
