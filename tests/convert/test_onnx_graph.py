"""ONNX models in which the weights of a GRU node are computed, and where nodes may lie."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_graphs import FEATURES, FLOAT, INT64, UNITS, arrays, made, node, ran

from gruflax import convert
from gruflax.linen import Bidirectional, Stack


@pytest.fixture
def x(random):
    """Inputs [t, b, f]."""
    return random.normal(size=(5, 3, FEATURES)).astype(np.float32)


W = arrays()["W"]
SCALED = np.random.default_rng(6).integers(-127, 127, size=W.shape).astype(np.int8)
WEIGHTS = {
    "identity": ([node("Identity", "w", "W")], {"w": W}, W),
    "cast": ([node("Cast", "w", "W", to=FLOAT)], {"w": W.astype(np.float64)}, W),
    "transpose": (
        [node("Transpose", "w", "W", perm=[0, 2, 1])],
        {"w": np.ascontiguousarray(W.swapaxes(1, 2))},
        W,
    ),
    "unsqueeze": ([node("Unsqueeze", "w zero", "W")], {"w": W[0], "zero": np.array([0])}, W),
    "concat": (
        [node("Concat", "z r", "W", axis=1)],
        {"z": W[:, :UNITS], "r": W[:, UNITS:]},
        W,
    ),
    "slice": (
        [node("Slice", "w zero one zero", "W")],
        {"w": np.concatenate([W, W + 1]), "zero": np.array([0]), "one": np.array([1])},
        W,
    ),
    "dequantized": (
        [node("DequantizeLinear", "w s", "W")],
        {"w": SCALED, "s": np.float32(0.01)},
        SCALED * np.float32(0.01),
    ),
    "value": ([node("Constant", "", "W", value=numpy_helper.from_array(W))], {}, W),
    "value_floats": (
        [
            node("Constant", "", "w", value_floats=W.ravel().tolist()),
            node("Constant", "", "s", value_ints=list(W.shape)),
            node("Reshape", "w s", "W"),
        ],
        {},
        W,
    ),
    "if": (
        [
            node("Constant", "", "yes", value=numpy_helper.from_array(np.array(True))),
            helper.make_node(
                "If",
                ["yes"],
                ["W"],
                **{
                    branch: helper.make_graph(
                        [node("Identity", name, f"{name}_")],
                        branch,
                        [],
                        [helper.make_tensor_value_info(f"{name}_", FLOAT, None)],
                    )
                    for branch, name in (("then_branch", "w"), ("else_branch", "v"))
                },
            ),
        ],
        {"w": W, "v": W + 1},
        W,
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_computed_from_constants(case, x, close):
    nodes, constants, wanted = WEIGHTS[case]
    others = {name: each for name, each in arrays().items() if name != "W"}
    model = made(*nodes, constants=constants, weights=others)
    gru, variables = convert.from_onnx(model)
    np.testing.assert_array_equal(variables["params"]["kernel"], wanted[0].T)
    close(gru.apply(variables, x), ran(model, X=x)[0])


def test_weights_that_are_inputs(x, close):
    given = arrays()
    others = {name: each for name, each in given.items() if name == "B"}
    model = made(
        node("Transpose", "w", "W", perm=[0, 2, 1]),
        inputs=[("w", FLOAT, [1, FEATURES, 3 * UNITS]), ("R", FLOAT, given["R"].shape)],
        weights=others,
    )
    values = {"w": np.ascontiguousarray(given["W"].swapaxes(1, 2)), "R": given["R"]}
    gru, variables = convert.from_onnx(model, inputs=values)
    close(gru.apply(variables, x), ran(model, X=x, **values)[0])
    message = r"W of the GRU node must be a constant .* values of \['w'\], which only inputs="
    with pytest.raises(ValueError, match=message):
        convert.from_onnx(model, inputs={"R": given["R"]})
    message = r"inputs must be values of the graph's inputs by name, of \['R', 'X', 'w'\], got \['v"
    with pytest.raises(ValueError, match=message):
        convert.from_onnx(model, inputs={"v": given["R"]})


def wrapped(body, name, inner):
    """A Loop or an If around some nodes."""
    info = helper.make_tensor_value_info
    yes = [node("Constant", "", f"{name}c", value=numpy_helper.from_array(np.array(True)))]
    if body == "If":
        branches = {
            key: helper.make_graph(
                [*inner, node("Identity", "X", f"{name}{key}")],
                key,
                [],
                [info(f"{name}{key}", FLOAT, None)],
            )
            for key in ("then_branch", "else_branch")
        }
        return [*yes, helper.make_node("If", [f"{name}c"], [f"{name}o"], name, **branches)]
    carried, going = info(f"{name}v", FLOAT, None), info(f"{name}p", onnx.TensorProto.BOOL, [])
    graph = helper.make_graph(
        inner, name, [info(f"{name}i", INT64, []), going, carried], [going, carried]
    )
    return [*yes, helper.make_node("Loop", ["", f"{name}c", "X"], [f"{name}o"], name, body=graph)]


def test_nodes_inside_of_bodies_are_named():
    inner = helper.make_node("GRU", ["X", "W", "R", "B"], ["", "y_h"], "deep", hidden_size=UNITS)
    model = made(*wrapped("Loop", "outer", wrapped("If", "choice", [inner])))
    message = "the GRU node 'deep' is inside the body of the If node 'choice' inside the body of "
    with pytest.raises(ValueError, match=f"{message}the Loop node 'outer', and only nodes of the"):
        convert.from_onnx(model, "deep")
    with pytest.raises(ValueError, match=r"GRU nodes: \['deep', 'gru'\], got None"):
        convert.from_onnx(model)
    assert convert.from_onnx(model, "gru")[0].units == UNITS


def test_nodes_in_local_functions(x, close):
    model = made()
    function = helper.make_function(
        "own",
        "Encoder",
        ["x", "w", "r", "b"],
        ["y", "h"],
        [helper.make_node("GRU", ["x", "w", "r", "b"], ["y", "h"], "inner", hidden_size=UNITS)],
        model.opset_import,
    )
    call = helper.make_node("Encoder", ["X", "W", "R", "B"], ["Y", "Y_h"], "call", domain="own")
    graph = helper.make_graph(
        [call], "g", model.graph.input, model.graph.output, model.graph.initializer
    )
    opsets = [*model.opset_import, helper.make_opsetid("own", 1)]
    called = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    gru, variables = convert.from_onnx(called)
    close(gru.apply(variables, x), ran(called, X=x)[0])


def test_nodes_of_one_name(x):
    """The second one goes by the name of its output."""
    model = made(helper.make_node("GRU", ["X", "W", "R"], ["", "h"], "gru", hidden_size=UNITS))
    with pytest.raises(ValueError, match=r"GRU nodes: \['Y', 'gru'\]"):
        convert.from_onnx(model)
    assert convert.from_onnx(model, "Y")[0].use_bias
    assert not convert.from_onnx(model, "gru")[0].use_bias


def test_nodes_that_are_not_in_a_row(x, close):
    def model(*nodes, direction="forward", features=UNITS):
        directions = 2 if direction == "bidirectional" else 1
        below = {f"{name}0": each for name, each in arrays(directions).items()}
        gru = helper.make_node(
            "GRU",
            ["X", "W0", "R0", "B0"],
            ["Y0", "h0"],
            "below",
            direction=direction,
            hidden_size=UNITS,
        )
        weights = arrays(features=features)
        sizes = {"one": np.array([1]), "step": np.array([-1]), "zero": np.array([0])}
        sizes |= {"end": np.array([np.iinfo(np.int64).min])}
        constants = {**sizes, **below}
        return made(gru, *nodes, constants=constants, weights=weights, gru="x W R B")

    names = ["below", "gru"]
    straight = node("Squeeze", "Y0 one", "x")
    flipped = [node("Squeeze", "Y0 one", "s"), node("Slice", "s step end zero step", "x")]
    summed = [node("ReduceSum", "Y0 one", "x", keepdims=0)]
    for each in (
        model(straight),
        model(*flipped, direction="reverse"),
        model(*summed, direction="bidirectional"),
    ):
        module, variables = convert.from_onnx(each, names)
        assert isinstance(module, Stack)
        if isinstance(module.layers[0], Bidirectional):
            assert module.layers[0].merge_mode == "sum"
        close(module.apply(variables, x), ran(each, X=x)[0])
    for each, message in (
        (model(straight, direction="reverse"), "changed in between"),
        (model(*flipped), "changed in between"),
        (model(node("Squeeze", "Y0 one", "s"), node("Relu", "s", "x")), "changed in between"),
        (model(node("Identity", "X", "x"), features=FEATURES), r"from the values of \['X'\]"),
    ):
        with pytest.raises(
            ValueError, match=f"'gru' must take the outputs of 'below', .*{message}"
        ):
            convert.from_onnx(each, names)
