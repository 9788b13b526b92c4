"""Converting the layers of Keras and TensorFlow: objects, weight lists and files."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from gruflax.convert.assembly import Layer, child, make_layer, pair_variables, parts, stack
from gruflax.convert.keras_files import Source, read_keras
from gruflax.convert.weights import Fields, Nested, Params, make_params, pick, weights_of
from gruflax.functional.checks import brief
from gruflax.keras_names import initializers, keras2
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack, StackedRNNCells


_GRUS = ("GRU", "CuDNNGRU")
_LAYERS = (*_GRUS, "Bidirectional", "RNN")

# The config of Keras 2's CuDNNGRU does not mention these arguments: it had only these values.
_CUDNN = {"reset_after": True, "recurrent_activation": "sigmoid"}

Module = TypeVar("Module", GRU, GRUCell)


@runtime_checkable
class KerasLayer(Protocol):
    """The methods of a live Keras layer that are used here."""

    def get_config(self) -> Fields: ...
    def get_weights(self) -> list[np.ndarray]: ...


def from_keras(source: object, name: str | Sequence[str] | None = None, **fields: Any) -> Any:
    """Converts a Keras GRU; exact, bit by bit.

        gru, variables = from_keras("model.keras", "encoder")
        outputs = gru.apply(variables, x)

    Args:
        source: a live `GRU`, `Bidirectional`, `RNN` or `GRUCell`; a live model; the weight list
            `[kernel, recurrent_kernel, bias]` of a GRU; or the path of a `.keras`, `.weights.h5`
            or older `.h5` file. The weights of a `CuDNNGRU` are recognized by their bias [6u].
        name: the name of the layer in a model or a file; None, the default, if that has only one
            GRU. Several names become a `gruflax.Stack` of these layers.
        **fields: fields of the `gruflax.GRU`, which replace those of the configuration, for example
            an `activation` where the layer has one that gruflax does not know. Initializers that
            gruflax does not know are ignored, since the weights exist already. A weight list and a
            `.weights.h5` file have no configuration: if they have no bias, give `reset_after=False`
            where it applies. The name of an activation means what it meant in the release that
            wrote the source: for Keras 2 "hard_sigmoid" is `clip(0.2 x + 0.5, 0, 1)`. A weight list
            and a `.weights.h5` file in Keras 3's form, which tf-keras writes too, do not tell the
            release. For them the name means Keras 3's function; the other one is
            `gruflax.compat.v1.hard_sigmoid`.

    Returns:
        `(module, variables)`, the module configured as the layer was: a `gruflax.GRU`,
        `Bidirectional`, `RNN` or `Stack`. For a live GRUCell the params alone: `kernel` [f, 3u],
        `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: `source` is of another type.
        ValueError: a file is damaged, the layer is no GRU, no layer has the name, no name is given
            for one of several, or the weights do not fit the configuration.
    """
    if name is not None and not isinstance(name, str):
        return stack([_layer(_source(source, each), fields) for each in name])
    found = _source(source, name)
    if found.class_name == "GRUCell":
        return _params(found.weights)
    return _layer(found, fields)


def to_keras(
    source: GRU | GRUCell | RNN | StackedRNNCells | Bidirectional | Stack | Nested,
    variables: Nested | None = None,
) -> list[np.ndarray]:
    """Converts to the weight list of a Keras layer; exact, bit by bit.

        layer = keras.layers.GRU.from_config(gru.get_config())
        layer.build((None, None, 12))
        layer.set_weights(to_keras(gru, variables))

    Args:
        source: bare params, or a `gruflax.GRU`, `GRUCell`, `RNN` of a GRUCell or of
            `StackedRNNCells`, `Bidirectional` or `Stack`.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        `[kernel, recurrent_kernel, bias]`, as `set_weights` takes it; both directions of a
        Bidirectional, the forward one first; all layers of a Stack, as `set_weights` of a
        `keras.Sequential` takes them.

    Raises:
        TypeError: `source` is of another type.
        ValueError: the variables are not those of the module.
    """
    return [
        params[name]
        for params in _each_params(source, variables)
        # The order of Keras' weight lists, which may not be that of the dict.
        for name in ("kernel", "recurrent_kernel", "bias")
        if name in params
    ]


def _each_params(source: object, variables: Nested | None) -> Iterator[Params]:
    """Yields the parameters of each GRU in a module, in Keras' order."""
    if variables is None or isinstance(source, GRUCell):
        yield weights_of(source, variables).params
    elif isinstance(source, RNN):
        yield from _each_params(source.cell, child(variables, "cell"))
    elif isinstance(source, StackedRNNCells):
        for index, cell in enumerate(source.cells):
            yield from _each_params(cell, child(variables, f"cells_{index}"))
    else:
        for part in parts(source, variables):
            yield from (weights.params for weights in part.weights)


def _source(source: object, name: str | None) -> Source:
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
    if not isinstance(source, KerasLayer):
        raise TypeError(
            "source must be a Keras layer or model, a weight list or a path, got "
            f"{type(source).__name__}."
        )
    return Source(type(source).__name__, source.get_config(), source.get_weights())


def _live_layer(model: Any, name: str | None) -> object:
    """Finds a layer of a live model by name, or its only GRU."""
    layers = {layer.name: layer for layer in model.layers}
    if name is None:
        layers = {key: each for key, each in layers.items() if type(each).__name__ in _LAYERS}
    return pick(layers, name, "the model's layers")


def _layer(found: Source, fields: Fields) -> Layer:
    """Makes a module and its variables from a layer that was read."""
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
        return make_layer([(params, fields)])
    return _module(GRU, found.config, params, fields), {"params": params}


def _bidirectional(found: Source, fields: Fields) -> Layer:
    """Makes a Bidirectional and its variables."""
    config = found.config
    if config is None:
        count = found.forward or len(found.weights) // 2
        both = (found.weights[:count], found.weights[count:])
        return make_layer([(_params(weights), fields) for weights in both])
    names = ["layer", *(["backward_layer"] if config.get("backward_layer") else [])]
    entries = [_entry(name, config.get(name), _GRUS) for name in names]
    count = _count(entries[0])
    both = (_params(found.weights[:count]), _params(found.weights[count:]))
    layers = [
        _module(GRU, entry, params, fields) for entry, params in zip(entries, both, strict=False)
    ]
    module = Bidirectional(layers[0], config.get("merge_mode", "concat"), *layers[1:])
    return module, pair_variables(*both)


def _rnn(found: Source, fields: Fields) -> Layer:
    """Makes an RNN of a GRUCell, or of several GRUCells on top of each other."""
    config = {key: value for key, value in (found.config or {}).items() if key != "name"}
    entry = _entry("cell", config.get("cell"), ("GRUCell", "StackedRNNCells"))
    stacked, entries = "cells" in entry, [entry]
    if stacked:
        entries = [_entry(index, each, ("GRUCell",)) for index, each in enumerate(entry["cells"])]
    weights, cells, params = iter(found.weights), [], {}
    for index, entry in enumerate(entries):
        name = f"cells_{index}"
        params[name] = _params(list(itertools.islice(weights, _count(entry))))
        cells.append(_module(GRUCell, entry, params[name], {}))
    cell = StackedRNNCells(cells) if stacked else cells[0]
    module = RNN.from_config(config | {"cell": cell}).clone(**fields)
    return module, {"params": {"cell": params if stacked else params["cells_0"]}}


def _module(cls: type[Module], config: Fields, params: Params, fields: Fields) -> Module:
    """Makes a GRU or GRUCell from a Keras config, and checks that the parameters fit it."""
    old = keras2.has_arguments(config)
    # A Keras model names its layers; in Flax the owner of a layer names it.
    dropped = {"name", *fields} - {"units"}
    config = {key: value for key, value in config.items() if key not in dropped}
    for key in [key for key in config if key.endswith("_initializer")]:
        if not _is_known_initializer(config[key]):
            del config[key]
    if "recurrent_activation" not in config:
        config |= _CUDNN
    # Keras before 2.2 had only reset_after=False, and its configs do not mention it.
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


def _entry(key: str | int, entry: object, classes: tuple[str, ...]) -> Fields:
    """Finds the config of a layer or cell inside the config of another one."""
    kind, config = None, None
    if isinstance(entry, Mapping):
        kind, config = entry.get("class_name"), entry.get("config")
    if kind not in classes or not isinstance(config, Mapping):
        raise ValueError(
            f"the config's {key} must be one of {classes} with its config, got {kind}."
        )
    return config


def _count(config: Fields) -> int:
    """Returns how many weights a GRU with this config has."""
    return 3 if config.get("use_bias", True) else 2


def _is_known_initializer(identifier: object) -> bool:
    try:
        initializers.identify(identifier)
    except (TypeError, ValueError):
        return False
    return True


def _params(weights: Sequence[np.ndarray]) -> Params:
    """Makes parameters from a weight list. A bias [6u] tells that it is a CuDNNGRU's."""
    if len(weights) not in (2, 3):
        raise ValueError(
            "weights must be [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias], got "
            f"{len(weights)} arrays."
        )
    kernel, recurrent = weights[:2]
    bias = weights[2] if len(weights) == 3 else None
    if bias is not None and recurrent.ndim == 2 and bias.shape == (2 * recurrent.shape[-1],):
        # cuDNN keeps each gate's matrix transposed; Keras only changed its shape.
        kernel = _each_gate(kernel, lambda gate: gate.T.reshape(gate.shape, order="F"))
        recurrent = _each_gate(recurrent, np.transpose)
        bias = bias.reshape(2, -1)
    return make_params(kernel, recurrent, bias)


def _each_gate(array: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([change(gate) for gate in np.split(array, 3, axis=-1)], axis=-1)
