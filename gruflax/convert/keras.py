"""Keras' and TensorFlow's layers: objects, weight lists and files."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gruflax.convert.gates import Params, make_params, pick, weights_of
from gruflax.convert.keras_files import Source, read_keras
from gruflax.convert.layers import Layer, child, pair, parts, single, stack
from gruflax.functional.checks import brief
from gruflax.keras_names import initializers, keras2
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, StackedRNNCells


_GRUS = ("GRU", "CuDNNGRU")
_LAYERS = (*_GRUS, "Bidirectional", "RNN")

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
        **fields: of the `gruflax.GRU`, which win over the configuration: an `activation` of yours
            for one that only Keras knows. Initializers that gruflax does not know are left out, for
            the weights are there. A weight list and a `.weights.h5` have no configuration: without
            a bias, give `reset_after` if it is False. The name of an activation means what it meant
            in the release that wrote the source: "hard_sigmoid" is `clip(0.2 x + 0.5, 0, 1)` for
            Keras 2. A weight list and a `.weights.h5` in the form of Keras 3, which tf-keras writes
            too, do not say which: there it is that of Keras 3, and
            `gruflax.compat.v1.hard_sigmoid` the other one.

    Returns:
        `(module, variables)`, the module configured as the layer was: a `gruflax.GRU`,
        `Bidirectional` or `RNN`. Of a live GRUCell `kernel` [f, 3u], `recurrent_kernel` [u, 3u],
        `bias` [2, 3u], [3u] or absent.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `source` is none of these.
        ValueError: a file is damaged, the layer is no GRU, there is no such layer or more than one,
            or its weights do not fit its configuration.
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
        if name is not None:
            raise ValueError(f"name chooses in a model or a file; source is a list, got {name!r}.")
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
        layers = {key: each for key, each in layers.items() if type(each).__name__ in _LAYERS}
    return pick(layers, name, "the model's layers")


def _layer(found: Source, fields: Mapping[str, Any]) -> Layer:
    """Makes a module and its variables of a layer."""
    if found.config is not None and not isinstance(found.config, Mapping):
        raise ValueError(f"the layer's config must be a dict, got {brief(found.config)}.")
    if found.config is not None and found.class_name not in _LAYERS:
        raise ValueError(f"the layer must be one of {_LAYERS}, got {found.class_name}: not a GRU.")
    if not found.weights:
        raise ValueError("the layer must have weights: build it first.")
    if found.keras_2:
        fields = keras2.meant(fields)
    if found.class_name == "Bidirectional":
        return _bidirectional(found, fields)
    if found.class_name == "RNN":
        return _rnn(found, fields)
    params = _params(found.weights)
    if found.config is None:
        return single(params, **fields)
    module = _module(GRU, found.config, params, fields)
    return module, {"params": params}


def _bidirectional(found: Source, fields: Mapping[str, Any]) -> Layer:
    config, count = found.config, found.forward or len(found.weights) // 2
    entries = []
    if config is not None:
        names = ["layer", *(["backward_layer"] if config.get("backward_layer") else [])]
        entries = [_entry(config, name, _GRUS) for name in names]
        count = _count(entries[0])
    forward, backward = _params(found.weights[:count]), _params(found.weights[count:])
    if config is None:
        return pair(forward, backward, "concat", **fields)
    params = {"forward_layer": forward, "backward_layer": backward}
    layers = [
        _module(GRU, entry, each, fields)
        for entry, each in zip(entries, params.values(), strict=False)
    ]
    module = Bidirectional(layers[0], config.get("merge_mode", "concat"), *layers[1:])
    return module, {"params": params}


def _rnn(found: Source, fields: Mapping[str, Any]) -> Layer:
    """Makes an RNN of a GRUCell, or of several on top of each other."""
    config = {key: value for key, value in (found.config or {}).items() if key != "name"}
    weights, stacked = list(found.weights), False
    entries = [_entry(config, "cell", ("GRUCell", "StackedRNNCells"))]
    if "cells" in entries[0]:
        stacked = True
        cells = dict(enumerate(entries[0]["cells"]))
        entries = [_entry(cells, index, ("GRUCell",)) for index in cells]
    cells, params = [], []
    for entry in entries:
        count = _count(entry)
        params.append(_params(weights[:count]))
        cells.append(_module(GRUCell, entry, params[-1], {}))
        del weights[:count]
    cell = StackedRNNCells(cells) if stacked else cells[0]
    module = RNN.from_config(config | {"cell": cell}).clone(**fields)
    named = {f"cells_{index}": each for index, each in enumerate(params)}
    return module, {"params": {"cell": named if stacked else params[0]}}


def _module(cls: Any, config: Mapping[str, Any], params: Params, fields: Mapping[str, Any]) -> Any:
    """Makes a GRU or GRUCell of a Keras config, and checks that the weights are its own."""
    old = keras2.has_arguments(config)
    # The name is the Keras model's business: here the owner of a layer names it.
    dropped = {"name", *fields} - {"units"}
    config = {key: value for key, value in config.items() if key not in dropped}
    for key in [key for key in config if key.endswith("_initializer")]:
        if not _is_known_initializer(config[key]):
            del config[key]
    if "recurrent_activation" not in config:
        config |= _CUDNN
    # Keras before 2.2 knew one convention, and wrote nothing of it.
    config.setdefault("reset_after", "bias" in params and params["bias"].ndim == 2)
    if old:
        config, fields = keras2.meant(config), keras2.meant(fields)
    try:
        module = cls.from_config(config)
    except TypeError as error:
        raise ValueError(f"the config must be a {cls.__name__}'s: {error}") from error
    module = module.clone(**fields)
    weights_of(module, params)
    return module


def _entry(owner: Mapping[Any, Any], key: Any, classes: tuple[str, ...]) -> Mapping[str, Any]:
    """The config of a layer or cell inside another one's config."""
    entry = owner.get(key)
    kind, config = None, None
    if isinstance(entry, Mapping):
        kind, config = entry.get("class_name"), entry.get("config")
    if kind not in classes or not isinstance(config, Mapping):
        raise ValueError(
            f"the config's {key} must be one of {classes} with its config, got {kind}."
        )
    return config


def _count(config: Mapping[str, Any]) -> int:
    """How many weights a GRU of this config has."""
    return 3 if config.get("use_bias", True) else 2


def _is_known_initializer(identifier: Any) -> bool:
    try:
        initializers.identify(identifier)
    except (TypeError, ValueError):
        return False
    return True


def _params(weights: Sequence[np.ndarray]) -> Params:
    """Makes parameters of a weight list; what a CuDNNGRU wrote has a bias [6u]."""
    if len(weights) not in (2, 3):
        raise ValueError(
            "weights must be [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias], got "
            f"{len(weights)} arrays."
        )
    kernel, recurrent = weights[:2]
    bias = weights[2] if len(weights) == 3 else None
    if bias is not None and recurrent.ndim == 2 and bias.shape == (2 * recurrent.shape[-1],):
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
