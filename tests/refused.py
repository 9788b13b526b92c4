"""Random arrays, variables and ONNX models for the table of refusals."""

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper


RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def variables_of(module):
    """Random variables of a layer whose inputs have 3 features."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((2, 5, 3), np.float32))
    return jax.tree.map(lambda leaf: draw(*leaf.shape).astype(leaf.dtype), shapes)


def onnx_model(constants=(), nodes=(), inputs=(), **attributes):
    """A model with one GRU node, and more or other constants, nodes and inputs."""
    arrays = {"W": draw(1, 12, 3), "R": draw(1, 12, 4), "B": draw(1, 24)} | dict(constants)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    known = {*arrays, *(name for node in nodes for name in node.output), "W"}
    names = ["X", "W", "R", "B", *(name if name in known else "" for name in ("L", "H"))]
    gru = helper.make_node("GRU", names, ["Y", "Y_h"], "gru", **attributes)
    shapes = {"X": ["time", "batch", 3], **dict(inputs)}
    float32 = onnx.TensorProto.FLOAT
    return helper.make_model(
        helper.make_graph(
            [*nodes, gru],
            "graph",
            [helper.make_tensor_value_info(name, float32, shapes[name]) for name in shapes],
            [helper.make_tensor_value_info("Y", float32, None)],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
    )


def in_a_body():
    """A model whose GRU node is inside the body of an If."""
    body = onnx_model().graph
    condition = helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=condition),
        helper.make_node("If", ["c"], ["out"], "choice", then_branch=body, else_branch=body),
    ]
    return helper.make_model(helper.make_graph(nodes, "graph", [], []))


def two_in_a_model():
    """A model in which something happens between two nodes."""
    model = onnx_model()
    (gru,) = model.graph.node
    above = helper.make_node("GRU", ["Z", "W2", "R", "B"], ["Y2"], "above")
    model.graph.initializer.append(numpy_helper.from_array(draw(1, 12, 4), "W2"))
    axis = numpy_helper.from_array(np.array([1]), "axis")
    model.graph.initializer.append(axis)
    squeezed = helper.make_node("Squeeze", ["Y", "axis"], ["S"])
    model.graph.node.extend([squeezed, helper.make_node("Relu", ["S"], ["Z"]), above])
    return model
