"""Looking into the graph of an ONNX model: its GRU nodes, and values that need no inputs."""

import functools
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from gruflax.convert.onnx_export import Proto
from gruflax.convert.weights import errors_as_value_errors
from gruflax.functional.checks import brief


# The modules of onnx that are used here.
SUBMODULES = ("inliner", "numpy_helper", "reference", "shape_inference", "version_converter")

# The operators that only move the entries of their first input, or of all inputs: Concat.
_MOVES = (
    *("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
)

# An opset in which onnx's reference evaluator has all operators.
_LATER_OPSET = 21

# The sizes that axes of unknown size have in `Values.evaluate`.
SIZES = (2, 3)


def load(onnx: ModuleType, source: object) -> Proto:
    """Returns the model of a path or an object, its local functions written out."""
    model: Proto = source
    if isinstance(source, (str, os.PathLike)):
        with errors_as_value_errors(f"{os.fspath(source)} must be a whole ONNX file"):
            model = onnx.load(os.fspath(source))
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"source must be an onnx.ModelProto or a path, got {brief(model)}.")
    if model.functions:
        with errors_as_value_errors("the functions of the model must be those of ONNX"):
            model = onnx.inliner.inline_local_functions(model)
    return model


def gru_nodes(graph: Proto, owner: str = "") -> dict[str, tuple[Proto, str]]:
    """Finds the GRU nodes by name, each with the nodes whose bodies it is inside of, or ""."""
    found = {}
    for node in graph.node:
        first = next(filter(None, node.output), "")
        if node.op_type == "GRU" and node.domain in ("", "ai.onnx"):
            # Nodes need no names, and names need not be unique.
            found[node.name if node.name not in ("", *found) else first] = (node, owner)
        inside = f" inside the body of the {node.op_type} node {node.name or first!r}{owner}"
        for body in _bodies(node):
            found = gru_nodes(body, inside) | found
    return found


def _bodies(node: Proto) -> Iterator[Proto]:
    """Yields the graphs that a node such as If, Loop or Scan has for attributes."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


class Ancestors(NamedTuple):
    """What a value of a graph is computed from.

    Attributes:
        nodes: the indices of the nodes that compute it.
        tensors: the names of the constants among its beginnings.
        shaped: the names of the values of which only the shape matters.
        sources: the names of all other beginnings: the inputs whose values matter.
    """

    nodes: set[int]
    tensors: set[str]
    shaped: set[str]
    sources: set[str]


class Values:
    """The values of an ONNX model that follow from its constants and from shapes.

    `given` are values of the graph's inputs by name, which are constants from then on.
    """

    def __init__(self, onnx: ModuleType, model: Proto, given: Mapping[str, ArrayLike]):
        self.onnx, self.model = onnx, model
        self.inputs = {each.name for each in model.graph.input}
        unknown = sorted(set(given) - self.inputs)
        if unknown:
            raise ValueError(
                f"inputs must be values of the graph's inputs by name, of {sorted(self.inputs)}, "
                f"got {unknown}."
            )
        self.tensors = {each.name: each for each in model.graph.initializer}
        for name, value in given.items():
            self.tensors[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
        self.inputs -= set(self.tensors)
        self._makers = {
            name: index for index, node in enumerate(model.graph.node) for name in node.output
        }

    def ancestors(self, name: str, fed: Mapping[str, np.ndarray] = {}) -> Ancestors:
        """Finds what a value is computed from; the values that are `fed` count as constants."""
        found = Ancestors(set(), set(), set(), set())
        pending, seen = [name], {"", *fed}
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self.tensors:
                found.tensors.add(value)
            elif value not in self._makers:
                found.sources.add(value)
            else:
                index = self._makers[value]
                node = self.model.graph.node[index]
                found.nodes.add(index)
                if node.op_type in ("Shape", "Size") and node.input[0] not in self.tensors:
                    found.shaped.add(node.input[0])
                else:
                    pending.extend(self._read_by(node))
        return found

    def _read_by(self, node: Proto) -> Iterator[str]:
        """Yields the names that a node reads; those that its bodies make are not known outside."""
        yield from node.input
        for body in _bodies(node):
            names = {name for each in body.node for name in self._read_by(each)}
            names |= {each.name for each in body.output}
            yield from names & (self.tensors.keys() | self.inputs | self._makers.keys())

    def evaluate(self, name: str, fed: Mapping[str, np.ndarray] = {}) -> list[np.ndarray]:
        """Returns a value for each of SIZES, or raises a ValueError if it depends on inputs.

        With values that are `fed`, which have sizes of their own, only for those.
        """
        found = self.ancestors(name, fed)
        if found.sources:
            raise ValueError(
                f"{name!r} is computed from the values of {sorted(found.sources)}, which only "
                "inputs={name: array} could give."
            )
        if not found.nodes and name in self.tensors:
            return [self.onnx.numpy_helper.to_array(self.tensors[name])] * len(SIZES)
        sizes = SIZES[:1] if fed or not found.shaped else SIZES
        with errors_as_value_errors(f"{name!r} is computed by operators that cannot be run"):
            values = [self._run(name, found, fed, size) for size in sizes]
        return values * (len(SIZES) // len(values))

    def _run(
        self, name: str, found: Ancestors, fed: Mapping[str, np.ndarray], size: int
    ) -> np.ndarray:
        """Runs the nodes that a value is computed by."""
        helper, nodes = self.onnx.helper, [self.model.graph.node[i] for i in sorted(found.nodes)]
        made = {output for node in nodes for output in node.output}
        feeds = {each: np.zeros(self.shape(each, size), np.float32) for each in found.shaped - made}
        feeds |= fed
        graph = helper.make_graph(
            nodes,
            "values",
            [helper.make_tensor_value_info(each, 0, None) for each in feeds],
            [helper.make_tensor_value_info(name, 0, None)],
            [self.tensors[each] for each in found.tensors],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        try:
            evaluator = self.onnx.reference.ReferenceEvaluator(model)
        except RuntimeError:
            # It has some operators, such as DequantizeLinear, in later versions only.
            model = self.onnx.version_converter.convert_version(model, _LATER_OPSET)
            evaluator = self.onnx.reference.ReferenceEvaluator(model)
        return evaluator.run([name], feeds)[0]

    def is_moved(self, name: str) -> bool:
        """Returns whether a value is made of the graph's inputs by moving their entries only."""
        pending, seen = [name], set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self._makers:
                node = self.model.graph.node[self._makers[value]]
                count = len(node.input) if node.op_type == "Concat" else 1
                # The others are axes, shapes and indices.
                others = (self.ancestors(each) for each in node.input[count:])
                if node.op_type not in _MOVES or any(each.sources for each in others):
                    return False
                pending.extend(node.input[:count])
            elif value not in self.inputs:
                return False
        return bool(seen & self.inputs)

    def shape(self, name: str, size: int) -> list[int]:
        """Returns the shape of a value, with `size` for axes of unknown size."""
        if name not in self._shapes:
            raise ValueError(f"the shape of {name!r} is not known.")
        axes = self._shapes[name].dim
        return [axis.dim_value if axis.HasField("dim_value") else size for axis in axes]

    @functools.cached_property
    def _shapes(self) -> dict[str, Proto]:
        """The shapes that are known, by name."""
        graph = self.onnx.shape_inference.infer_shapes(self.model).graph
        known = {
            each.name: each.type.tensor_type
            for each in (*graph.input, *graph.value_info, *graph.output)
        }
        return {name: each.shape for name, each in known.items() if each.HasField("shape")}
