"""ONNX models with a GRU node, and what onnxruntime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
FEATURES, UNITS = 3, 4


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def arrays(directions=1, units=UNITS, features=FEATURES):
    """Random W, R and B."""
    random = np.random.default_rng(3)
    shapes = {"W": (3 * units, features), "R": (3 * units, units), "B": (6 * units,)}
    return {
        name: random.normal(size=(directions, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def made(*nodes, constants=None, inputs=(), gru="X W R B", weights=None, opset=17, **attributes):
    """A model with a GRU node that reads what other nodes make, checked by onnx."""
    attributes = {"hidden_size": UNITS, **attributes}
    last = helper.make_node("GRU", gru.split(" "), ["Y", "Y_h"], "gru", **attributes)
    constants = (arrays() if weights is None else weights) | (constants or {})
    x = helper.make_tensor_value_info("X", FLOAT, ["time", "batch", FEATURES])
    graph = helper.make_graph(
        [*nodes, last],
        "graph",
        [x, *(helper.make_tensor_value_info(*each) for each in inputs)],
        [
            helper.make_tensor_value_info("Y", FLOAT, [None] * 4),
            helper.make_tensor_value_info("Y_h", FLOAT, [None] * 3),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model_gen_version(graph, opset_imports=[helper.make_opsetid("", opset)])
    onnx.checker.check_model(model)
    return model


def ran(model, **feeds):
    """Y with its directions next to each other [t, b, d u], and Y_h [d, b, u]."""
    outputs, state = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    return np.concatenate(np.moveaxis(outputs, 1, 0), axis=-1), state
