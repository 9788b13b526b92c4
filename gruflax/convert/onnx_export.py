"""Writing layers as ONNX models."""

from types import ModuleType
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike

from gruflax.convert.assembly import Part, parts
from gruflax.convert.onnx_activations import to_onnx_activation
from gruflax.convert.weights import Nested, Weights, import_optional
from gruflax.functional.checks import compute_dtype
from gruflax.linen import GRU, RNN, Bidirectional, Stack


# A protobuf message of ONNX, such as an onnx.ModelProto: its fields have no types.
Proto: TypeAlias = Any


# The first opset whose GRU has every attribute that is written here.
MINIMAL_OPSET = 14

# The dtypes of ONNX's GRU, and the first opset that has each.
_DTYPES = {
    "float16": MINIMAL_OPSET,
    "bfloat16": 22,
    "float32": MINIMAL_OPSET,
    "float64": MINIMAL_OPSET,
}


class Graph:
    """An ONNX graph of one dtype, to which nodes, constants, inputs and outputs are added."""

    def __init__(self, onnx: ModuleType, dtype: np.dtype):
        self.onnx = onnx
        self.dtype = dtype
        self.onnx_dtype = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Adds a node; returns the name of its output."""
        return self.node_of(1, op, *inputs, **attributes)[0]

    def node_of(self, count: int, op: str, *inputs: str, **attributes: object) -> list[str]:
        """Adds a node of several outputs; returns their names."""
        name = f"{op.lower()}_{len(self.nodes)}"
        names = [f"{name}_{index}" for index in range(count)]
        self.nodes.append(self.onnx.helper.make_node(op, inputs, names, name, **attributes))
        return names

    def constant(self, value: ArrayLike) -> str:
        """Adds an array; returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(self, directions: list[np.ndarray]) -> str:
        """Adds one array for each direction, stacked, in the graph's dtype; returns its name."""
        return self.constant(np.stack([array.astype(self.dtype) for array in directions]))

    def input(self, name: str, shape: list[str | int], onnx_dtype: int | None = None) -> str:
        """Adds an input, by default of the graph's dtype; returns its name."""
        onnx_dtype = onnx_dtype or self.onnx_dtype
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, onnx_dtype, shape))
        return name

    def output(self, value: str, name: str, shape: list[str | int | None]) -> None:
        """Makes a value an output of the graph, under a name."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, self.onnx_dtype, shape))

    def model(self, opset: int) -> Proto:
        """Returns the model, checked by ONNX's checker."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "gru", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model_gen_version(graph, opset_imports=opsets, producer_name="gruflax")
        self.onnx.checker.check_model(model, full_check=True)
        return model


def to_onnx(
    module: GRU | RNN | Bidirectional | Stack,
    variables: Nested,
    *,
    initial_state: bool = False,
    seq_lengths: bool = False,
    opset: int = 17,
) -> Proto:
    """Converts to an ONNX model that computes what the module does in inference.

    Batch and time are symbolic. `time_major`, `return_sequences`, `return_state`, `go_backwards`
    and the merge mode are those of the module; dropout does nothing in inference. An initial state
    that is learned is a constant of the model.

    The model, with its inputs, outputs and states, has the dtype that the module computes in: the
    module's `dtype`, else that of its weights, which may be float64 with or without
    `jax_enable_x64`. Weights are exact, bit by bit; the module casts those of another dtype, and so
    does this function. ONNX's GRU has float16, float32, float64 and, from opset 22 on, bfloat16;
    of these onnxruntime runs float16 and float32 on a CPU.

    For example::

        onnx.save(to_onnx(gru, variables), "gru.onnx")
        session = onnxruntime.InferenceSession("gru.onnx")
        (outputs,) = session.run(None, {"inputs": x})

    Args:
        module: a `gruflax.GRU`, an `RNN` of `GRUCell`s, one or several, a `Bidirectional` of a GRU
            or of an RNN of one GRUCell, or a `Stack` of these.
        variables: the variables of the module.
        initial_state: True gives the model an input `[b, u]` for each direction of each layer:
            "initial_state", or several in order, "initial_state_0", "initial_state_1", ... Together
            with `return_state` that allows streaming. They replace a state that is learned. False
            by default.
        seq_lengths: True gives the model an input "seq_lengths" [b] of int32, as the argument of
            the module's call. Outputs after the end of a sequence are zeros in ONNX: a GRU or RNN
            that returns sequences must have `zero_output_for_mask=True`, one that does not False.
            The last state of a sequence of length 0 is its initial state in gruflax, and zeros in
            ONNX Runtime. False by default.
        opset: the version of ONNX's operators, 14 or later; 17 by default.

    Returns:
        An `onnx.ModelProto` with the input "inputs" and the outputs "outputs" (with
        `merge_mode=None` "outputs_0" and "outputs_1") and, with `return_state`, "state" or
        "state_0", "state_1", ...

    Raises:
        ImportError: onnx is not installed.
        TypeError: `module` is of another class.
        ValueError: an activation, an option or the dtype has no counterpart in ONNX, the layers
            compute in several dtypes, or with `seq_lengths` the outputs after the end of a sequence
            are not those of ONNX.
    """
    onnx = import_optional("ONNX models", "onnx", "numpy_helper")
    if not isinstance(opset, int) or opset < MINIMAL_OPSET:
        raise ValueError(f"opset must be an integer from {MINIMAL_OPSET} on, got {opset!r}.")
    layers = parts(module, variables, learned_state=True)
    for layer in layers:
        _check(layer)
    if seq_lengths:
        _check_lengths(layers)
    last = layers[-1].directions[0]
    graph = Graph(onnx, _dtype(layers, opset))
    axes = ["time", "batch"] if last.time_major else ["batch", "time"]
    value = graph.input("inputs", [*axes, layers[0].weights[0].features])
    if not last.time_major:
        value = graph.node("Transpose", value, perm=[1, 0, 2])
    starts = _initial_states(graph, layers, value, initial_state)
    int32 = onnx.TensorProto.INT32
    lengths = graph.input("seq_lengths", ["batch"], int32) if seq_lengths else ""
    states, values = [], [value]
    for layer, start in zip(layers, starts, strict=True):
        values, new = _layer(graph, layer, values[0], lengths, start)
        states.extend(new)
    for name, value in zip(_numbered("outputs", len(values)), values, strict=True):
        if last.return_sequences and not last.time_major:
            value = graph.node("Transpose", value, perm=[1, 0, 2])
        graph.output(value, name, [*axes, None] if last.return_sequences else ["batch", None])
    for name, (state, units) in zip(_numbered("state", len(states)), states, strict=True):
        graph.output(state, name, ["batch", units])
    return graph.model(opset)


def _initial_states(graph: Graph, layers: list[Part], value: str, inputs: bool) -> list[str]:
    """Adds an input for each state; returns a name of `[d, b, u]` for each layer, "" for zeros."""
    if not inputs:
        return [_learned_state(graph, layer, value) for layer in layers]
    names = iter(_numbered("initial_state", sum(len(layer.directions) for layer in layers)))
    axis = graph.constant(np.array([0], np.int64))
    starts = []
    for layer in layers:
        states = [graph.input(next(names), ["batch", each.units]) for each in layer.weights]
        unsqueezed = [graph.node("Unsqueeze", state, axis) for state in states]
        starts.append(graph.node("Concat", *unsqueezed, axis=0))
    return starts


def _learned_state(graph: Graph, layer: Part, value: str) -> str:
    """Expands the states that are learned over the batch of a value `[t, b, f]`; "" for zeros."""
    states = [each.params.get("initial_state") for each in layer.weights]
    if all(state is None for state in states):
        return ""
    zeros = np.zeros(layer.weights[0].units)
    rows = graph.weights([(zeros if state is None else state)[None] for state in states])
    one, shape = graph.constant(np.array([1], np.int64)), graph.node("Shape", value)
    batch = graph.node("Gather", shape, one)
    return graph.node("Expand", rows, graph.node("Concat", one, batch, one, axis=0))


def _numbered(name: str, count: int) -> list[str]:
    """Makes names for some values of one kind, numbered if there are several."""
    return [name] if count == 1 else [f"{name}_{index}" for index in range(count)]


def _layer(
    graph: Graph, layer: Part, value: str, lengths: str, start: str
) -> tuple[list[str], list[tuple[str, int]]]:
    """Adds one layer; returns the names of its outputs, `[t, b, u]` or `[b, u]`, and its states."""
    gru = layer.directions[0]
    sequences, final = _gru_node(graph, layer, value, lengths, start)
    counts = range(len(layer.directions))
    index = [graph.constant(np.array(direction, np.int64)) for direction in counts]
    finals = [graph.node("Gather", final, each, axis=0) for each in index]
    outputs = finals
    if gru.return_sequences:
        outputs = [graph.node("Gather", sequences, each, axis=1) for each in index]
        if len(outputs) == 1 and gru.go_backwards and not layer.reordered:
            # ONNX returns outputs in the order of the inputs, gruflax in the order of processing.
            outputs = [_flipped(graph, outputs[0])]
    states = [(state, weights.units) for state, weights in zip(finals, layer.weights, strict=True)]
    if len(outputs) == 2 and layer.merge_mode is not None:
        outputs = [_merged(graph, outputs, layer.merge_mode)]
    return outputs, states if gru.return_state else []


def _gru_node(graph: Graph, layer: Part, value: str, lengths: str, start: str) -> list[str]:
    """Adds the GRU node; returns the names of its outputs, `[t, d, b, u]` and `[d, b, u]`."""
    both = layer.weights
    biased = any(each.config.use_bias for each in both)
    activations = [
        to_onnx_activation(getattr(each.config, field))
        for each in both
        for field in ("recurrent_activation", "activation")
    ]
    alphas, betas = (
        [getattr(each, name) for each in activations if getattr(each, name) is not None]
        for name in ("alpha", "beta")
    )
    directions = ("forward", "reverse")[layer.directions[0].go_backwards]
    return graph.node_of(
        2,
        "GRU",
        value,
        graph.weights([each.params["kernel"].T for each in both]),
        graph.weights([each.params["recurrent_kernel"].T for each in both]),
        graph.weights([_bias(each) for each in both]) if biased else "",
        lengths,
        start,
        hidden_size=both[0].units,
        linear_before_reset=int(both[0].config.reset_after),
        direction="bidirectional" if len(both) == 2 else directions,
        activations=[each.name for each in activations],
        # An empty list has no type in ONNX.
        **({"activation_alpha": alphas} if alphas else {}),
        **({"activation_beta": betas} if betas else {}),
    )


def _bias(weights: Weights) -> np.ndarray:
    """Joins both biases of a direction to `[6u]`; with `reset_after=False` the second is zeros."""
    bias = weights.biases()
    return np.concatenate(list(bias) if bias.ndim == 2 else [bias, np.zeros_like(bias)])


def _merged(graph: Graph, outputs: list[str], merge_mode: str) -> str:
    """Merges the outputs of two directions as Keras does."""
    if merge_mode == "concat":
        return graph.node("Concat", *outputs, axis=-1)
    if merge_mode == "mul":
        return graph.node("Mul", *outputs)
    merged = graph.node("Add", *outputs)
    if merge_mode == "sum":
        return merged
    return graph.node("Mul", merged, graph.constant(np.array(0.5, graph.dtype)))


def _flipped(graph: Graph, value: str) -> str:
    """Reverses the first axis, which is time."""
    least = np.iinfo(np.int64).min
    bounds = [graph.constant(np.array([each], np.int64)) for each in (-1, least, 0, -1)]
    return graph.node("Slice", value, *bounds)


def _check(layer: Part) -> None:
    """Raises a ValueError unless ONNX can represent this layer."""
    gru, weights = layer.directions[0], layer.weights
    if gru.stateful:
        raise ValueError(
            "ONNX has no stateful GRU: convert one with stateful=False, return_state=True and "
            "initial_state=True."
        )
    if len(weights) == 2:
        alike = [(each.units, each.config.reset_after) for each in weights]
        if alike[0] != alike[1]:
            raise ValueError(
                f"both directions must have the same (units, reset_after) for ONNX, got {alike}."
            )
        if gru.go_backwards:
            raise ValueError("the forward layer of a Bidirectional must not go backwards for ONNX.")


def _check_lengths(layers: list[Part]) -> None:
    """Raises a ValueError unless ONNX has the outputs that the layers have after a sequence."""
    for layer in layers[:-1]:
        if len(layer.directions) == 1 and layer.directions[0].go_backwards and not layer.reordered:
            raise ValueError(
                "seq_lengths must be False where a layer but the last has go_backwards=True: its "
                "outputs come with the last step first."
            )
    gru = layers[-1].directions[0]
    if len(layers[-1].directions) == 1 and gru.zero_output_for_mask != gru.return_sequences:
        raise ValueError(
            "zero_output_for_mask must be equal to return_sequences for seq_lengths=True, for in "
            "ONNX outputs after the end of a sequence are zeros, and the output without "
            f"return_sequences is the last state; got {gru.zero_output_for_mask} and "
            f"{gru.return_sequences}."
        )


def _dtype(layers: list[Part], opset: int) -> np.dtype:
    """Finds the dtype that all layers compute in, or raises a ValueError where ONNX has none."""
    found: list[np.dtype] = []
    # The dtype of a model does not depend on whether JAX has float64 enabled in this process.
    with jax.enable_x64(True):
        for layer in layers:
            for gru, weights in zip(layer.directions, layer.weights, strict=True):
                inputs = np.empty(0, found[-1] if found else weights.params["kernel"].dtype)
                found.append(compute_dtype(gru.dtype, weights.params, inputs))
    names = [dtype.name for dtype in found]
    if len(set(names)) > 1:
        raise ValueError(
            f"dtype must be the same in all layers and directions for ONNX, got {names}."
        )
    if opset < _DTYPES.get(names[0], opset + 1):
        known = [name for name, first in _DTYPES.items() if first <= opset]
        later = f": that needs opset {_DTYPES[names[0]]}" if names[0] in _DTYPES else ""
        raise ValueError(
            f"dtype must be one of {known} for ONNX's opset {opset}, got {names[0]}{later}."
        )
    return found[0]
