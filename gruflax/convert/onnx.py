"""Reading the GRU nodes of ONNX models as layers."""

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from gruflax.convert.assembly import Layer, make_layer, stack
from gruflax.convert.onnx_activations import from_onnx_activations
from gruflax.convert.onnx_export import Proto
from gruflax.convert.weights import (
    Fields,
    Params,
    errors_as_value_errors,
    import_optional,
    make_params,
    pick,
)
from gruflax.functional.checks import brief


# The attributes of a GRU node that are read below, and those that do not change what it computes.
_KNOWN = (
    "activation_alpha",
    "activation_beta",
    "activations",
    "direction",
    "hidden_size",
    "layout",
    "linear_before_reset",
    "output_sequence",
)

# ONNX's values of `direction`, and how many directions each has.
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")


def from_onnx(source: object, name: str | Sequence[str] | None = None, **fields: Any) -> Layer:
    """Converts a GRU node of an ONNX model.

    Exact, bit by bit, with `linear_before_reset`; without it the two biases are added up. The gates
    are in gruflax's order and the update gate has its sign; the matrices are transposed.

    The node's inputs `sequence_lens` and `initial_h` are the arguments `seq_lengths` and
    `initial_state` of the layer's call. A node with direction "bidirectional" becomes a
    `gruflax.Bidirectional`, and one with "reverse" a GRU with `go_backwards`, whose outputs are in
    the order of processing: ONNX's outputs, flipped.

        gru, variables = from_onnx("model.onnx")
        outputs = gru.apply(variables, x)

    Args:
        source: an `onnx.ModelProto`, or the path of a file.
        name: the name of the node; None, the default, if the model has only one GRU. Several names
            become a `gruflax.Stack`.
        **fields: fields of the `gruflax.GRU`. By default it returns sequences and its inputs are
            `[t, b, f]`, as those of the node; `time_major=False` changes that.

    Returns:
        `(module, variables)`, the module a `gruflax.GRU`, `Bidirectional` or `Stack`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnx is not installed.
        TypeError: `source` is neither a model nor a path.
        ValueError: the model is damaged, no node has the name, the node's weights are not constants
            of the model, its lengths or its initial state are constants, or it has an activation or
            an attribute that gruflax does not have.
    """
    onnx = import_optional("ONNX models", "onnx", "numpy_helper")
    model: Proto = source
    if isinstance(source, (str, os.PathLike)):
        with errors_as_value_errors(f"{os.fspath(source)} must be a whole ONNX file"):
            model = onnx.load(os.fspath(source))
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"source must be an onnx.ModelProto or a path, got {brief(model)}.")
    nodes = {
        node.name or next(filter(None, node.output), ""): node
        for node in model.graph.node
        if node.op_type == "GRU"
    }
    names = [name] if name is None or isinstance(name, str) else name
    chosen = [pick(nodes, each, "the model's GRU nodes") for each in names]
    with errors_as_value_errors("source must be a whole ONNX model"):
        constants = _constants(onnx, model.graph)
        found = [_read(onnx, node, constants) for node in chosen]
    return stack(
        [make_layer([(params, {**own, **fields}) for params, own in node]) for node in found]
    )


def _constants(onnx: ModuleType, graph: Proto) -> dict[str, np.ndarray]:
    """The arrays that a model holds, by name."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and [each.name for each in node.attribute] == ["value"]:
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def _read(
    onnx: ModuleType, node: Proto, constants: Mapping[str, np.ndarray]
) -> list[tuple[Params, Fields]]:
    """Reads the parameters of each direction of a node, and the fields of a GRU for it."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    unknown = sorted(set(attributes) - set(_KNOWN))
    if unknown:
        raise ValueError(f"the GRU node must have no attributes but {_KNOWN}, got {unknown}.")
    direction = attributes.get("direction", b"forward").decode()
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {list(_DIRECTIONS)}, got {direction!r}.")
    reset_after = bool(attributes.get("linear_before_reset", 0))
    params = _directions(_weights(node, constants, _DIRECTIONS[direction]), reset_after)
    units = params[0]["recurrent_kernel"].shape[0]
    if attributes.get("hidden_size", units) != units:
        raise ValueError(
            f"hidden_size must be that of R, {units}, got {attributes['hidden_size']}."
        )
    own = {
        "return_sequences": True,
        "time_major": not attributes.get("layout", 0),
        "go_backwards": direction == "reverse",
        "reset_after": reset_after,
    }
    activations = from_onnx_activations(attributes, len(params))
    return [(each, own | names) for each, names in zip(params, activations, strict=True)]


def _weights(node: Proto, constants: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Finds the weights of a node: W [d, 3u, f], R [d, 3u, u] and, if it has biases, B [d, 6u]."""
    names = {key: name for key, name in zip(_INPUTS, node.input, strict=False) if name}
    for key in ("sequence_lens", "initial_h"):
        # A constant state of zeros changes nothing: layers begin with zeros anyway.
        if names.get(key) in constants and (key != "initial_h" or constants[names[key]].any()):
            raise ValueError(
                f"{key} of the GRU node must come from outside, as seq_lengths and initial_state "
                "of the call do; got a constant, which a layer has no place for."
            )
    arrays = {}
    for key in ("W", "R", "B"):
        if key in names or key != "B":
            if names.get(key) not in constants:
                raise ValueError(f"{key} of the GRU node must be a constant of the model.")
            arrays[key] = constants[names[key]]
    ranks = {"W": 3, "R": 3, "B": 2}
    shapes = {key: array.shape for key, array in arrays.items()}
    if any(len(shape) != ranks[key] or shape[0] != count for key, shape in shapes.items()):
        raise ValueError(f"W, R and B must have {count} directions, got the shapes {shapes}.")
    return arrays


def _directions(arrays: Mapping[str, np.ndarray], reset_after: bool) -> list[Params]:
    """Makes the parameters of each direction from W, R and B."""
    directions = []
    for index, (kernel, recurrent) in enumerate(zip(arrays["W"], arrays["R"], strict=True)):
        bias = None
        if "B" in arrays:
            inner, outer = np.split(arrays["B"][index], 2)
            # Without linear_before_reset both biases are only ever added up.
            bias = np.stack([inner, outer]) if reset_after else inner + outer
        directions.append(make_params(kernel.T, recurrent.T, bias))
    return directions
