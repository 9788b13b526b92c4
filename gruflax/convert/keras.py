"""Keras' and TensorFlow's layers: objects, weight lists and files."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gruflax.convert.gates import Params, make_params, pick, weights_of
from gruflax.convert.keras_files import Source, read_keras
from gruflax.convert.layers import Layer, child, pair, parts, single, stack
from gruflax.functional.activations import hard_sigmoid_v1
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, StackedRNNCells


# What Keras 2 called a cuDNN layer had neither of these, and one value for each.
_CUDNN = {"reset_after": True, "recurrent_activation": "sigmoid"}


def from_keras(source: Any, name: str | Sequence[str] | None = None, **fields: Any) -> Any:
    """Converts a Keras GRU; exact, bit by bit.

        gru, variables = from_keras("model.keras", "encoder")
        outputs = gru.apply(variables, x)

    Args:
        source: a live `GRU`, `Bidirectional`, `RNN` or `GRUCell`; a live model; the weight list
            `[kernel, recurrent_kernel, bias]` of a GRU; or the path of a `.keras`, `.weights.h5`
            or older `.h5` file. The weights of a `CuDNNGRU` are known by their bias [6u].
        name: of the layer in a model or a file; None where there is one GRU. Several names
            become a `gruflax.Stack` of these layers.
        **fields: of the `gruflax.GRU`, which win over the configuration. A weight list and a
            `.weights.h5` have none: without a bias, give `reset_after` if it is False.

    Returns:
        `(module, variables)`, the module configured as the layer was: a `gruflax.GRU`,
        `Bidirectional` or `RNN`. Of a live GRUCell `kernel` [f, 3u], `recurrent_kernel` [u, 3u],
        `bias` [2, 3u], [3u] or absent.

    Raises:
        TypeError: `source` is none of these.
        ValueError: a file is damaged, there is no such layer or more than one, or its weights do
            not fit its configuration.
    """
    if name is not None and not isinstance(name, str):
        return stack([_layer(_source(source, each), fields) for each in name])
    found = _source(source, name)
    if found.class_name == "GRUCell":
        return _params(found.weights)
    return _layer(found, fields)


def to_keras(source: Any, variables: Mapping[str, Any] | None = None) -> list[np.ndarray]:
    """Converts to the weight list of a Keras layer; exact, bit by bit.

        layer = keras.layers.GRU.from_config(gru.get_config())
        layer.build((None, None, 12))
        layer.set_weights(to_keras(gru, variables))

    Args:
        source: bare params, or a `gruflax.GRU`, `GRUCell`, `RNN` of a GRUCell or of
            `StackedRNNCells`, `Bidirectional` or `Stack`.
        variables: of the module; None where `source` is params.

    Returns:
        `[kernel, recurrent_kernel, bias]`, as `set_weights` takes it; both directions of a
        Bidirectional, the forward one first; all layers of a Stack, as `set_weights` of a
        `keras.Sequential` takes them.

    Raises:
        TypeError: the module is none of these.
        ValueError: the variables are not those of the module.
    """
    if variables is None:
        return _ordered(weights_of(None, source).params)
    if isinstance(source, RNN):
        return to_keras(source.cell, child(variables, "cell"))
    if isinstance(source, StackedRNNCells):
        cells = enumerate(source.cells)
        return [
            array
            for index, cell in cells
            for array in to_keras(cell, child(variables, f"cells_{index}"))
        ]
    if isinstance(source, GRUCell):
        return _ordered(weights_of(source, variables).params)
    return [
        array
        for part in parts(source, variables)
        for weights in part.weights
        for array in _ordered(weights.params)
    ]


def _source(source: Any, name: str | None) -> Source:
    """Reads the class, the config and the weights of one layer."""
    if isinstance(source, (str, os.PathLike)):
        return read_keras(os.fspath(source), name)
    if isinstance(source, (list, tuple)):
        return Source("GRU", None, [np.asarray(array) for array in source])
    if hasattr(source, "get_layer"):
        source = _live_layer(source, name)
    elif name is not None:
        raise ValueError(f"name chooses in a model or a file; source is one layer, got {name!r}.")
    if not (hasattr(source, "get_config") and hasattr(source, "get_weights")):
        raise TypeError(
            "source must be a Keras layer or model, a weight list or a path, got "
            f"{type(source).__name__}."
        )
    return Source(type(source).__name__, source.get_config(), source.get_weights())


def _live_layer(model: Any, name: str | None) -> Any:
    layers = {layer.name: layer for layer in model.layers}
    if name is None:
        kinds = ("GRU", "CuDNNGRU", "Bidirectional", "RNN")
        layers = {key: each for key, each in layers.items() if type(each).__name__ in kinds}
    return pick(layers, name, "the model's layers")


def _layer(found: Source, fields: Mapping[str, Any]) -> Layer:
    """Makes a module and its variables of a layer."""
    if not found.weights:
        raise ValueError("the layer must have weights: build it first.")
    if found.class_name == "Bidirectional":
        return _bidirectional(found, fields)
    if found.class_name == "RNN":
        return _rnn(found, fields)
    params = _params(found.weights)
    if found.config is None:
        return single(params, **fields)
    if found.class_name not in ("GRU", "CuDNNGRU"):
        raise ValueError(
            f"the layer must be a GRU, CuDNNGRU, Bidirectional or RNN, got {found.class_name}."
        )
    module = _module(GRU, found.config, params, fields)
    return module, {"params": params}


def _bidirectional(found: Source, fields: Mapping[str, Any]) -> Layer:
    half = len(found.weights) // 2
    forward, backward = _params(found.weights[:half]), _params(found.weights[half:])
    if found.config is None:
        return pair(forward, backward, "concat", **fields)
    inner = found.config["layer"]
    if inner["class_name"] not in ("GRU", "CuDNNGRU"):
        raise ValueError(f"the layer must be a Bidirectional of a GRU, got {inner['class_name']}.")
    other = found.config.get("backward_layer")
    layer = _module(GRU, inner["config"], forward, fields)
    backward_layer = other and _module(GRU, other["config"], backward, fields)
    module = Bidirectional(layer, found.config["merge_mode"], backward_layer)
    return module, {"params": {"forward_layer": forward, "backward_layer": backward}}


def _rnn(found: Source, fields: Mapping[str, Any]) -> Layer:
    """Makes an RNN of a GRUCell, or of several on top of each other."""
    config = {key: value for key, value in (found.config or {}).items() if key != "name"}
    cell, weights = config["cell"], list(found.weights)
    stacked = cell["class_name"] == "StackedRNNCells"
    cells, params = [], []
    for each in cell["config"]["cells"] if stacked else [cell]:
        if each["class_name"] != "GRUCell":
            raise ValueError(f"the cell must be a GRUCell, got {each['class_name']}.")
        count = 3 if each["config"]["use_bias"] else 2
        params.append(_params(weights[:count]))
        cells.append(_module(GRUCell, each["config"], params[-1], {}))
        del weights[:count]
    cell = StackedRNNCells(cells) if stacked else cells[0]
    module = RNN.from_config(config | {"cell": cell}).clone(**fields)
    named = {f"cells_{index}": each for index, each in enumerate(params)}
    return module, {"params": {"cell": named if stacked else params[0]}}


def _module(cls: Any, config: Mapping[str, Any], params: Params, fields: Mapping[str, Any]) -> Any:
    """Makes a GRU or GRUCell of a Keras config, and checks that the weights are its own."""
    # The name is the Keras model's business: here the owner of a layer names it.
    config = {key: value for key, value in config.items() if key != "name"}
    if "recurrent_activation" not in config:
        config |= _CUDNN
    # Keras before 2.2 knew one convention, and wrote nothing of it.
    config.setdefault("reset_after", "bias" in params and params["bias"].ndim == 2)
    if "implementation" in config:
        # Only Keras 1 and 2 write it, whose hard_sigmoid is not that of Keras 3.
        for key in ("activation", "recurrent_activation"):
            if config.get(key) == "hard_sigmoid":
                config[key] = hard_sigmoid_v1
    module = cls.from_config(config).clone(**fields)
    weights_of(module, params)
    return module


def _params(weights: Sequence[np.ndarray]) -> Params:
    """Makes parameters of a weight list; what a CuDNNGRU wrote has a bias [6u]."""
    if len(weights) not in (2, 3):
        raise ValueError(
            "weights must be [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias], got "
            f"{len(weights)} arrays."
        )
    kernel, recurrent = weights[:2]
    bias = weights[2] if len(weights) == 3 else None
    if bias is not None and bias.shape == (2 * recurrent.shape[-1],):
        # cuDNN has each gate's matrix transposed, though Keras gave it the shape of the others.
        kernel = _each_gate(kernel, lambda gate: gate.T.reshape(gate.shape, order="F"))
        recurrent = _each_gate(recurrent, np.transpose)
        bias = bias.reshape(2, -1)
    return make_params(kernel, recurrent, bias)


def _each_gate(array: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([change(gate) for gate in np.split(array, 3, axis=-1)], axis=-1)


def _ordered(params: Params) -> list[np.ndarray]:
    """The weight list of parameters, in Keras' order whatever that of the dict."""
    return [params[name] for name in ("kernel", "recurrent_kernel", "bias") if name in params]
