"""Converting the layers of Keras and TensorFlow: objects, weight lists and files."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gruflax.convert.assembly import child, stack
from gruflax.convert.keras_configs import Found, choose
from gruflax.convert.keras_files import read_keras
from gruflax.convert.keras_layers import Source, holds_grus, make_from_keras, read_weights
from gruflax.convert.weights import Fields, Nested, Params, weights_of
from gruflax.functional.checks import brief
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack, StackedRNNCells


@runtime_checkable
class KerasLayer(Protocol):
    """The methods of a live Keras layer that are used here."""

    def get_config(self) -> Fields: ...
    def get_weights(self) -> list[np.ndarray]: ...


def from_keras(source: object, name: str | Sequence[str] | None = None, **fields: Any) -> Any:
    """Converts GRUs of Keras 1 to 3, tf.keras and tf-keras; exact, bit by bit.

    For example::

        gru, variables = from_keras("model.keras", "encoder")
        outputs = gru.apply(variables, x)

    Args:
        source: what holds the GRU. In memory: a `GRU`, `Bidirectional`, `RNN` of `GRUCell`s or
            `GRUCell`; a model, `TimeDistributed` or layer that has such layers inside, at any
            depth; or the weight list `[kernel, recurrent_kernel, bias]` of a GRU. On disk: the path
            of a `.keras` file or the folder that it unpacks to, of a `.weights.h5` file, or of an
            `.h5` file with a model or its weights. A bias [6u] tells that the weights are a
            `CuDNNGRU`'s.
        name: the name of the layer in a model or a file, with the names of the models around it
            where that is not unique: "encoder/gru". The path of its weights in a file is a name
            too, and so is that of the `TimeDistributed` around a layer. None, the default, if there
            is only one GRU. Several names become a `gruflax.Stack` of these layers.
        **fields: fields of the `gruflax.GRU`, or of the `RNN` and its cells. They replace those of
            the configuration, for example an `activation` that gruflax does not know, and are all
            that is known where there is none: for a weight list, a file of weights, and a layer
            inside of a user's own model or layer. Without a bias such weights need
            `reset_after=False` where it applies. The name of an activation means what it meant in
            the release that wrote the source: for Keras 2 "hard_sigmoid" is `clip(0.2 x + 0.5, 0,
            1)`. A weight list and a `.weights.h5` file of Keras 2.15 or tf-keras do not tell the
            release: there the name means Keras 3's function, and the other is
            `gruflax.compat.v1.hard_sigmoid`.

    Returns:
        `(module, variables)`, the module configured as the layer was: a `gruflax.GRU`,
        `Bidirectional`, `RNN` or `Stack`. Its inputs may have any number of batch axes, as those
        of a `TimeDistributed` have. For a GRUCell the params alone: `kernel` [f, 3u],
        `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: `source` is a file, and h5py is not installed.
        TypeError: `source` is of another type.
        ValueError: a file is damaged, a SavedModel or an index of several files; the layer is no
            GRU or has no weights yet; no layer has the name, or none is given for one of several;
            the names of the weights in an `.h5` file do not tell which are the layer's; the weights
            do not fit the configuration; or an activation is unknown, a user's, has weights or
            mixes the batch.

    Warns:
        UserWarning: constraints, regularizers and initializers that gruflax does not know are left
            out, since outputs do not depend on them; a subclass is taken for Keras' class; or the
            configuration of a model does not describe the layer, so that it has the defaults.
    """
    if isinstance(name, (tuple, list)) and name:
        return stack([make_from_keras(_source(source, each, fields), fields) for each in name])
    if not isinstance(name, str | None):
        raise TypeError(f"name must be a name, names or None, got {brief(name)}.")
    found = _source(source, name, fields)
    if found.class_name == "GRUCell":
        return read_weights(found.cells[0])
    return make_from_keras(found, fields)


def to_keras(
    source: GRU | GRUCell | RNN | StackedRNNCells | Bidirectional | Stack | Nested,
    variables: Nested | None = None,
) -> list[np.ndarray]:
    """Converts to the weight list of a Keras layer; exact, bit by bit.

    For example::

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
    inner = _inner(source)
    if variables is None or not inner:
        yield weights_of(source, variables).params
        return
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


def _source(source: object, name: str | None, fields: Fields) -> Source:
    """Reads the class, the config and the weights of one layer."""
    if isinstance(source, (str, os.PathLike)):
        return read_keras(os.fspath(source), name)
    if isinstance(source, (list, tuple)):
        if name is not None:
            raise ValueError(f"name chooses in a model or a file; source is a list, got {name!r}.")
        return Source("GRU", None, [[np.asarray(array) for array in source]])
    if isinstance(source, type) or not isinstance(source, KerasLayer):
        raise TypeError(
            "source must be a Keras layer or model, a weight list or a path, got "
            f"{type(source).__name__}."
        )
    found = [] if holds_grus(_entry(source)) else list(_found(source, fields))
    if not found and not hasattr(source, "get_layer"):
        if name is not None:
            raise ValueError(
                f"name chooses in a model or a file; source is one layer, got {name!r}."
            )
        return _live(source, fields)
    return choose(found, name, "the model's layers")


def _found(
    layer: KerasLayer, fields: Fields, names: tuple[str, ...] = (), wrappers: int = 0
) -> Iterator[Found]:
    """Yields the GRUs inside of a live model or layer, whatever layers are around them."""
    for inner in _children(layer):
        path = (*names, inner.name)
        if holds_grus(_entry(inner)):
            read = functools.partial(_live, inner, fields)
            yield Found("/".join(path), path[-1 - wrappers :], read)
        else:
            wrapper = hasattr(inner, "layer")
            yield from _found(inner, fields, path, wrappers + 1 if wrapper else 0)


def _children(layer: object) -> Iterator[Any]:
    """Yields the layers directly inside of a live layer or model, each once."""
    # Keras has no public list of the layers in a layer of a user.
    flatten = getattr(layer, "_flatten_layers", lambda **_: getattr(layer, "layers", ()))
    yield from {id(each): each for each in flatten(recursive=False, include_self=False)}.values()


def _entry(layer: KerasLayer) -> Fields:
    """Returns what Keras writes of a live layer into a config."""
    try:
        config = layer.get_config()
    except Exception:
        # Layers of users may have no config; whatever GRU is inside has one.
        config = {}
    return {"class_name": type(layer).__name__, "config": config}


def _live(layer: KerasLayer, fields: Fields) -> Source:
    """Reads a live layer."""
    cells = list(_cells(layer))
    for name in {"activation", "recurrent_activation"} - set(fields):
        for cell in cells:
            _check_function(name, getattr(cell, name, None))
    # Keras 2 lists the weights of a whole layer in another order, if a part of it is frozen.
    return Source(type(layer).__name__, layer.get_config(), [cell.get_weights() for cell in cells])


def _check_function(name: str, function: object) -> None:
    """Raises a ValueError for a function of a user, which configs may call by a name of Keras."""
    module = getattr(function, "__module__", None) or type(function).__module__
    if function is not None and module.split(".")[0] not in ("keras", "tf_keras", "tensorflow"):
        raise ValueError(
            f"{name} must be a function of Keras, got {brief(function)} of {module}: give "
            f"{name}= to from_keras, a function of JAX."
        )


def _cells(layer: Any) -> Iterator[Any]:
    """Yields the cells of a live layer, forward before backward and lower before upper."""
    inner = [getattr(layer, "forward_layer", None), getattr(layer, "backward_layer", None)]
    inner = inner if all(inner) else getattr(layer, "cells", [getattr(layer, "cell", None)])
    if not all(inner):
        yield layer
        return
    for each in inner:
        yield from _cells(each)
