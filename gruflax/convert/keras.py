"""Converting the layers of Keras and TensorFlow: objects, weight lists and files."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gruflax.convert.assembly import child, stack
from gruflax.convert.keras_configs import Found, choose
from gruflax.convert.keras_files import read_keras
from gruflax.convert.keras_layers import Source, holds_grus, make_from_keras, read_weights
from gruflax.convert.weights import Fields, Nested, Params, weights_of
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack, StackedRNNCells


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
        return stack([make_from_keras(_source(source, each), fields) for each in name])
    found = _source(source, name)
    if found.class_name == "GRUCell":
        return read_weights(found.cells[0])
    return make_from_keras(found, fields)


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
    inner = {} if variables is None else _inner(source)
    if not inner:
        yield weights_of(source, variables).params
    for name, module in inner.items():
        yield from _each_params(module, child(variables, name))


def _inner(module: object) -> dict[str, object]:
    """Returns the modules inside of a module by the names that they have in its variables."""
    if isinstance(module, RNN):
        return {"cell": module.cell}
    if isinstance(module, StackedRNNCells):
        return {f"cells_{index}": cell for index, cell in enumerate(module.cells)}
    if isinstance(module, Bidirectional):
        return {"forward_layer": module.layer, "backward_layer": module.backward_layer}
    if isinstance(module, Stack):
        return {f"layers_{index}": layer for index, layer in enumerate(module.layers)}
    return {}


def _source(source: object, name: str | None) -> Source:
    """Reads the class, the config and the weights of one layer."""
    if isinstance(source, (str, os.PathLike)):
        return read_keras(os.fspath(source), name)
    if isinstance(source, (list, tuple)):
        if name is not None:
            raise ValueError(f"name chooses in a model or a file; source is a list, got {name!r}.")
        return Source("GRU", None, [[np.asarray(array) for array in source]])
    if not isinstance(source, KerasLayer):
        raise TypeError(
            "source must be a Keras layer or model, a weight list or a path, got "
            f"{type(source).__name__}."
        )
    found = [] if holds_grus(_entry(source)) else list(_found(source, ()))
    if not found and not hasattr(source, "get_layer"):
        if name is not None:
            raise ValueError(
                f"name chooses in a model or a file; source is one layer, got {name!r}."
            )
        return _live(source)
    return choose(found, name, "the model's layers")


def _found(layer: KerasLayer, names: tuple[str, ...], wrappers: int = 0) -> Iterator[Found]:
    """Yields the GRUs inside of a live model or layer, whatever layers are around them."""
    for inner in _children(layer):
        path = (*names, inner.name)
        if holds_grus(_entry(inner)):
            yield Found((*path[-1 - wrappers :], "/".join(path)), _live(inner))
        else:
            wrapper = type(inner).__name__ == "TimeDistributed"
            yield from _found(inner, path, wrappers + 1 if wrapper else 0)


def _children(layer: object) -> Iterator[Any]:
    """Yields the layers directly inside of a live layer or model, each once."""
    # Keras has no public list of the layers in a layer of a user.
    flatten = getattr(layer, "_flatten_layers", lambda **_: getattr(layer, "layers", ()))
    yield from {id(each): each for each in flatten(recursive=False, include_self=False)}.values()


def _entry(layer: KerasLayer) -> Fields:
    """Returns what Keras writes of a live layer into a config; a user's may have no config."""
    try:
        return {"class_name": type(layer).__name__, "config": layer.get_config()}
    except NotImplementedError:
        return {"class_name": type(layer).__name__, "config": {}}


def _live(layer: KerasLayer) -> Source:
    """Reads a live layer."""
    return Source(type(layer).__name__, layer.get_config(), list(_cells(layer)))


def _cells(layer: Any) -> Iterator[list[np.ndarray]]:
    """Yields the weights of each cell; those of the layer itself may begin with unfrozen ones."""
    if hasattr(layer, "forward_layer"):
        inner = [layer.forward_layer, layer.backward_layer]
    else:
        inner = getattr(layer, "cells", None) or list(filter(None, [getattr(layer, "cell", None)]))
    for each in inner:
        yield from _cells(each)
    if not inner:
        yield layer.get_weights()
