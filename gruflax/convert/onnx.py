"""Reading the GRU nodes of ONNX models as layers."""

import itertools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.convert.assembly import Layer, make_layer, stack
from gruflax.convert.onnx_activations import from_onnx_activations
from gruflax.convert.onnx_export import Proto
from gruflax.convert.onnx_graph import SIZES, SUBMODULES, Values, gru_nodes, load
from gruflax.convert.weights import (
    Fields,
    Params,
    errors_as_value_errors,
    import_optional,
    make_params,
    pick,
)
from gruflax.layers.directions import MERGE_MODES, merge_directions
from gruflax.linen import Bidirectional


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

_NOT_IN_A_ROW = (
    "the GRU node {!r} must take the outputs of {!r}, reversed if that has direction 'reverse', as "
    "the layers of a Stack do; {} Convert the nodes one at a time."
)

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")


def from_onnx(
    source: object,
    name: str | Sequence[str] | None = None,
    *,
    inputs: Mapping[str, ArrayLike] | None = None,
    **fields: Any,
) -> Layer:
    """Converts a GRU node of an ONNX model.

    Exact, bit by bit, with `linear_before_reset`; without it the two biases are added up. The gates
    are in gruflax's order and the update gate has its sign; the matrices are transposed. Weights
    that the model computes from constants, as by Transpose or DequantizeLinear, are computed by
    onnx's reference evaluator. A node with direction "bidirectional" becomes a
    `gruflax.Bidirectional`, and one with "reverse" a GRU with `go_backwards`, whose outputs are in
    the order of processing: ONNX's outputs, flipped.

    The node's input `sequence_lens` is the argument `seq_lengths` of the layer's call. As in ONNX,
    outputs after the end of a sequence are zeros: `zero_output_for_mask` is True, but with
    `return_sequences=False` the layer returns the last state, ONNX's `Y_h`. That of a sequence of
    length 0 is its initial state in gruflax, and zeros in ONNX Runtime.

    An `initial_h` that is an input of the model, or an excerpt of one, is the argument
    `initial_state` of the call, `[b, u]` for each direction. Zeros are left out. Anything that the
    model makes of constants and of shapes, such as `h0.expand` of a PyTorch module, becomes
    `learn_initial_state=True` and the parameter `initial_state`, if it is the same for the whole
    batch; an `initial_state` given to the call replaces it, as always.

    For example::

        gru, variables = from_onnx("model.onnx")
        outputs = gru.apply(variables, x)

    Args:
        source: an `onnx.ModelProto`, or the path of a file.
        name: the name of the node; None, the default, if the model has only one GRU. Several names
            become a `gruflax.Stack`, if each of the nodes takes the outputs of the one before it
            and nothing else happens to them.
        inputs: values of the graph's inputs by name, for weights that are inputs of the model or
            computed from them. None by default.
        **fields: fields of the `gruflax.GRU`. By default it returns sequences and its inputs are
            `[t, b, f]`, as those of the node; `time_major=False` changes that.

    Returns:
        `(module, variables)`, the module a `gruflax.GRU`, `Bidirectional` or `Stack`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnx is not installed.
        TypeError: `source` is neither a model nor a path.
        ValueError: the model is damaged; no node has the name, or it is in the body of an If, Loop
            or Scan; its weights depend on inputs that are not given; its lengths are constants; its
            initial state is computed from inputs or differs within the batch; it has `clip`, or an
            activation or an attribute that gruflax does not have; or the nodes are not in a row.
    """
    onnx = import_optional("ONNX models", "onnx", *SUBMODULES)
    model = load(onnx, source)
    nodes = gru_nodes(model.graph)
    names = [name] if name is None or isinstance(name, str) else name
    chosen = []
    for each in names:
        node, owner = pick(nodes, each, "the model's GRU nodes")
        if owner:
            raise ValueError(
                f"the GRU node {node.name or node.output[0]!r} is{owner}, and only nodes of the "
                "main graph can be converted: export the model with the GRU outside of it."
            )
        chosen.append(node)
    values = Values(onnx, model, inputs or {})
    with errors_as_value_errors("source must be a whole ONNX model"):
        found = [_read(onnx, node, values) for node in chosen]
    # Without sequences the output of a layer is the last state, not the zeros after a sequence.
    ends = {"zero_output_for_mask": fields.get("return_sequences", True)}
    layers = [
        make_layer([(params, {**own, **ends, **fields}) for params, own in node]) for node in found
    ]
    for index, (below, above) in enumerate(itertools.pairwise(chosen)):
        layers[index] = _chained(layers[index], below, above, values)
    return stack(layers)


def _read(onnx: ModuleType, node: Proto, values: Values) -> list[tuple[Params, Fields]]:
    """Reads the parameters of each direction of a node, and the fields of a GRU for it."""
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if "clip" in attributes:
        raise ValueError(
            f"clip of the GRU node must be absent, got {attributes['clip']}: it limits what the "
            "activations are given, and gruflax has no such option."
        )
    unknown = sorted(set(attributes) - set(_KNOWN))
    if unknown:
        raise ValueError(f"the GRU node must have no attributes but {_KNOWN}, got {unknown}.")
    direction = attributes.get("direction", b"forward").decode()
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {list(_DIRECTIONS)}, got {direction!r}.")
    reset_after, batch_first = (
        bool(attributes.get(each, 0)) for each in ("linear_before_reset", "layout")
    )
    params = _directions(_weights(node, values, _DIRECTIONS[direction]), reset_after)
    units = params[0]["recurrent_kernel"].shape[0]
    if attributes.get("hidden_size", units) != units:
        raise ValueError(
            f"hidden_size must be that of R, {units}, got {attributes['hidden_size']}."
        )
    _check_lengths(node, values, int(batch_first))
    state = _initial_state(node, values, 1 - batch_first, (len(params), units))
    if state is not None:
        params = [each | {"initial_state": row} for each, row in zip(params, state, strict=True)]
    own = {
        "return_sequences": True,
        "time_major": not batch_first,
        "go_backwards": direction == "reverse",
        "reset_after": reset_after,
        "learn_initial_state": state is not None,
    }
    activations = from_onnx_activations(attributes, len(params))
    return [(each, own | names) for each, names in zip(params, activations, strict=True)]


def _weights(node: Proto, values: Values, count: int) -> dict[str, np.ndarray]:
    """Finds the weights of a node: W [d, 3u, f], R [d, 3u, u] and, if it has biases, B [d, 6u]."""
    names = _inputs(node)
    arrays = {
        key: _constant(key, names.get(key, ""), values)
        for key in ("W", "R", "B")
        if key in names or key != "B"
    }
    ranks = {"W": 3, "R": 3, "B": 2}
    shapes = {key: array.shape for key, array in arrays.items()}
    if any(len(shape) != ranks[key] or shape[0] != count for key, shape in shapes.items()):
        raise ValueError(f"W, R and B must have {count} directions, got the shapes {shapes}.")
    return arrays


def _inputs(node: Proto) -> dict[str, str]:
    """Returns the names of the values that a node is given, by the names of its inputs."""
    return {key: name for key, name in zip(_INPUTS, node.input, strict=False) if name}


def _constant(key: str, name: str, values: Values) -> np.ndarray:
    """Returns the value of one of a node's weights."""
    try:
        first, second = values.evaluate(name)
        if not np.array_equal(first, second):
            raise ValueError(f"{name!r} depends on the shapes of inputs.")
    except ValueError as error:
        raise ValueError(
            f"{key} of the GRU node must be a constant of the model; {error}"
        ) from error
    return first


def _check_lengths(node: Proto, values: Values, time_axis: int) -> None:
    """Raises a ValueError if the node's lengths are constants, other than that of the inputs."""
    names = _inputs(node)
    name = names.get("sequence_lens", "")
    if not name or values.ancestors(name).sources:
        return
    try:
        for size, lengths in zip(SIZES, values.evaluate(name), strict=True):
            if (lengths != values.shape(names["X"], size)[time_axis]).any():
                raise ValueError(f"{lengths.tolist()} is not the number of steps of the inputs.")
    except ValueError as error:
        raise ValueError(
            "sequence_lens of the GRU node must come from outside, as seq_lengths of the call "
            f"does; got a constant, which a layer has no place for: {error} Make it an input of "
            "the model, or take it away, and pass the lengths to the call."
        ) from error


def _initial_state(
    node: Proto, values: Values, batch_axis: int, shape: tuple[int, int]
) -> np.ndarray | None:
    """Returns the state [d, u] that every sequence begins with; None for zeros and for inputs."""
    names = _inputs(node)
    name = names.get("initial_h", "")
    if not name or values.is_moved(name):
        return None
    try:
        first, second = (np.moveaxis(each, batch_axis, 0) for each in values.evaluate(name))
        if not first.size or first.shape[1:] != shape:
            raise ValueError(f"{name!r} has no rows of the shape {shape}.")
        if not (first == first[0]).all() or not (second == first[0]).all():
            raise ValueError(f"{name!r} differs from row to row of the batch.")
    except ValueError as error:
        ends = f"[{names['X']!r}, {name!r}], [{next(filter(None, node.output))!r}]"
        raise ValueError(
            "initial_h of the GRU node must be an input of the model, or a constant that is the "
            f"same for the whole batch; {error} Make it an input, which is the initial_state of "
            "the call: from_onnx(onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))"
            f".extract_model({ends}))."
        ) from error
    return first[0] if first[0].any() else None


def _chained(layer: Layer, below: Proto, above: Proto, values: Values) -> Layer:
    """Returns the layer of a node with the merge mode by which the node above takes its outputs."""
    module, variables = layer
    both, name = isinstance(module, Bidirectional), below.output[0]
    dtype = jax.tree.leaves(variables)[0].dtype
    layouts = [any(a.name == "layout" and a.i for a in node.attribute) for node in (below, above)]
    try:
        drawn = np.random.default_rng(0).normal(size=values.shape(name, SIZES[0])).astype(dtype)
        taken = values.evaluate(_inputs(above).get("X", ""), {name: drawn})[0]
    except ValueError as error:
        raise ValueError(_NOT_IN_A_ROW.format(above.name, below.name, error)) from error
    outputs = np.moveaxis(drawn, 1 + layouts[0], 0)
    if layouts[0] != layouts[1]:
        outputs = outputs.swapaxes(1, 2)
    if module.go_backwards:
        outputs = np.flip(outputs, 1 + layouts[1])
    modes = [mode for mode in MERGE_MODES if mode] if both else ["concat"]
    close = 8 * float(jnp.finfo(dtype).eps)
    for mode in modes:
        wanted = merge_directions(mode, *outputs) if both else outputs[0]
        if wanted.shape == taken.shape and np.allclose(wanted, taken, close, close):
            return (module.clone(merge_mode=mode) if both else module), variables
    raise ValueError(_NOT_IN_A_ROW.format(above.name, below.name, "they are changed in between."))


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
