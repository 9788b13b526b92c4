"""ONNX: its GRU node, in and out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gruflax.convert.gates import Params, make_params, pick, whole
from gruflax.convert.layers import Layer, stack
from gruflax.convert.onnx_activations import from_onnx_activations
from gruflax.convert.onnx_export import export_onnx
from gruflax.functional.checks import brief
from gruflax.linen import GRU, Bidirectional


# Attributes of the node that are about something else than what it computes, or are read below.
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


def from_onnx(source: Any, name: str | Sequence[str] | None = None, **fields: Any) -> Layer:
    """Converts a GRU node of an ONNX model.

    Exact, bit by bit, with `linear_before_reset`; without it the two biases are added up. The gates
    are in gruflax's order and the update gate has its sign; the matrices are transposed.

    What the node takes from outside, `sequence_lens` and `initial_h`, is `seq_lengths` and
    `initial_state` of the call. A node with direction "bidirectional" becomes a
    `gruflax.Bidirectional`, one with "reverse" a GRU with `go_backwards`: its outputs come in the
    order of processing, ONNX's flipped.

        gru, variables = from_onnx("model.onnx")
        outputs = gru.apply(variables, x)

    Args:
        source: an `onnx.ModelProto`, or the path of a file.
        name: of the node; None where there is one GRU. Several names become a `gruflax.Stack`.
        **fields: of the `gruflax.GRU`. Inputs are `[t, b, f]`, as the node's, unless
            `time_major=False`; it returns sequences.

    Returns:
        `(module, variables)`, the module a `gruflax.GRU`, `Bidirectional` or `Stack`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnx is not installed.
        TypeError: `source` is neither a model nor a path.
        ValueError: the model is damaged, there is no such node, its weights are no constants of the
            model, its lengths or its initial state are, or it has an activation or an attribute
            that gruflax does not have.
    """
    onnx = import_onnx()
    if isinstance(source, (str, os.PathLike)):
        with whole(f"{os.fspath(source)} must be a whole ONNX file"):
            source = onnx.load(os.fspath(source))
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(f"source must be an onnx.ModelProto or a path, got {brief(source)}.")
    nodes = {
        node.name or next(filter(None, node.output), ""): node
        for node in source.graph.node
        if node.op_type == "GRU"
    }
    names = [name] if name is None or isinstance(name, str) else name
    chosen = [pick(nodes, each, "the model's GRU nodes") for each in names]
    with whole("source must be a whole ONNX model"):
        constants = _constants(onnx, source.graph)
        found = [_read(onnx, node, constants) for node in chosen]
    return stack([_layer(*each, fields) for each in found])


def to_onnx(
    module: Any,
    variables: Mapping[str, Any],
    *,
    initial_state: bool = False,
    opset: int = 17,
) -> Any:
    """Converts to an ONNX model that computes what the module does in inference.

    Batch and time are symbolic. `time_major`, `return_sequences`, `return_state`, `go_backwards`
    and the merge mode are those of the module; dropout does nothing in inference.

    The model has the dtype that the module computes in: the module's `dtype`, else that of its
    weights, float64 with or without `jax_enable_x64`. Inputs, outputs and states have it too.
    Weights are exact, bit by bit; those of another dtype are cast to it, as the module does. ONNX's
    GRU has float16, float32, float64 and, from opset 22 on, bfloat16; of these onnxruntime runs
    float16 and float32 on a CPU.

        onnx.save(to_onnx(gru, variables), "gru.onnx")
        session = onnxruntime.InferenceSession("gru.onnx")
        (outputs,) = session.run(None, {"inputs": x})

    Args:
        module: a `gruflax.GRU`, a `Bidirectional` of them, or a `Stack` of these.
        variables: of the module.
        initial_state: whether the model has an input "initial_state" for each direction of each
            layer, `[b, u]`: "initial_state", or "initial_state_0", "initial_state_1", ... in
            order; for streaming, together with `return_state`.
        opset: of ONNX, 14 or later.

    Returns:
        An `onnx.ModelProto` with the input "inputs" and the outputs "outputs" (with
        `merge_mode=None` "outputs_0" and "outputs_1") and, with `return_state`, "state" or
        "state_0", "state_1", ...

    Raises:
        ImportError: onnx is not installed.
        TypeError: the module is none of these.
        ValueError: an activation, an option or the dtype has no counterpart in ONNX, or the layers
            compute in several dtypes.
    """
    return export_onnx(import_onnx(), module, variables, initial_state, opset)


def import_onnx() -> Any:
    """Imports onnx, or raises an ImportError that says how to install it."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(
            "ONNX models need onnx: pip install onnx, or gruflax with its extra [convert]."
        ) from error
    return onnx


def _constants(onnx: Any, graph: Any) -> dict[str, np.ndarray]:
    """The arrays that a model holds, by name."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and [each.name for each in node.attribute] == ["value"]:
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def _read(
    onnx: Any, node: Any, constants: Mapping[str, Any]
) -> tuple[list[Params], list[dict[str, Any]]]:
    """The parameters of each direction of a node, and the fields of its GRU."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    unknown = sorted(set(attributes) - set(_KNOWN))
    if unknown:
        raise ValueError(f"the GRU node must have no attributes but {_KNOWN}, got {unknown}.")
    direction = attributes.get("direction", b"forward").decode()
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {list(_DIRECTIONS)}, got {direction!r}.")
    reset_after = bool(attributes.get("linear_before_reset", 0))
    params = _directions(node, constants, reset_after, _DIRECTIONS[direction])
    units = params[0]["recurrent_kernel"].shape[0]
    if attributes.get("hidden_size", units) != units:
        raise ValueError(
            f"hidden_size must be that of R, {units}, got {attributes['hidden_size']}."
        )
    own = {
        "units": units,
        "return_sequences": True,
        "time_major": not attributes.get("layout", 0),
        "go_backwards": direction == "reverse",
        "reset_after": reset_after,
        "use_bias": "bias" in params[0],
        "param_dtype": params[0]["kernel"].dtype,
    }
    return params, [own | each for each in from_onnx_activations(attributes, len(params))]


def _layer(params: list[Params], own: list[dict[str, Any]], fields: Mapping[str, Any]) -> Layer:
    """Makes a module and its variables of one node."""
    grus = [GRU(**(each | dict(fields))) for each in own]
    if len(grus) == 1:
        return grus[0], {"params": params[0]}
    names = ("forward_layer", "backward_layer")
    variables = {"params": dict(zip(names, params, strict=True))}
    return Bidirectional(grus[0], "concat", grus[1].clone(go_backwards=True)), variables


# ONNX's names, and how many directions each has.
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")


def _directions(
    node: Any, constants: Mapping[str, Any], reset_after: bool, count: int
) -> list[Params]:
    """The parameters of each direction: W [d, 3u, f], R [d, 3u, u] and B [d, 6u]."""
    names = {key: name for key, name in zip(_INPUTS, node.input, strict=False) if name}
    for key in ("sequence_lens", "initial_h"):
        # A state of zeros is what a layer begins with anyway.
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
    shapes = {key: array.shape for key, array in arrays.items()}
    if any(
        len(shape) != (2 if key == "B" else 3) or shape[0] != count for key, shape in shapes.items()
    ):
        raise ValueError(f"W, R and B must have {count} directions, got the shapes {shapes}.")
    directions = []
    for index in range(count):
        bias = None
        if "B" in arrays:
            inner, outer = np.split(arrays["B"][index], 2)
            # Before the reset both biases are added at once.
            bias = np.stack([inner, outer]) if reset_after else inner + outer
        kernel, recurrent = arrays["W"][index].T, arrays["R"][index].T
        directions.append(make_params(kernel, recurrent, bias))
    return directions
