"""Reading the files that Keras and TensorFlow write: `.keras`, `.weights.h5` and older `.h5`."""

import collections
import io
import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax.numpy as jnp
import numpy as np

from gruflax.convert.weights import (
    Fields,
    errors_as_value_errors,
    import_optional,
    pick,
    read_json,
)
from gruflax.functional.checks import brief
from gruflax.keras_names import keras2
from gruflax.keras_names.registry import snake_case


_LAYERS = ("GRU", "CuDNNGRU", "GRUCell")

# An h5py.File, Group or Dataset: h5py has no types.
Node: TypeAlias = Any

T = TypeVar("T")


class Source(NamedTuple):
    """One Keras layer as it was read from a file or an object.

    Attributes:
        class_name: Keras' name of its class.
        config: the result of its `get_config`; None if it is unknown.
        weights: the result of its `get_weights`.
        forward: how many weights belong to the forward layer of a Bidirectional; None means half.
        keras_2: True if a file without a config says that Keras 2 wrote it.
    """

    class_name: str
    config: Fields | None
    weights: list[np.ndarray]
    forward: int | None = None
    keras_2: bool = False


def read_keras(path: str, name: str | None) -> Source:
    """Reads one layer out of a file. Nothing in the file is executed or unpickled."""
    h5py = import_optional("Keras files", "h5py")
    with errors_as_value_errors(f"{path} must be a whole .keras, .weights.h5 or .h5 file of Keras"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = read_json("the model's config", archive.read("config.json"))
                weights = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(weights, "r") as file:
                _check_links(file)
                return _from_archive(config, file, name)
        with h5py.File(path, "r") as file:
            _check_links(file)
            if "layer_names" in file.attrs or "model_weights" in file:
                return _from_legacy(file, name)
            return _from_weights(file, name)


def _check_links(file: Node) -> None:
    """Raises a ValueError where a link in the file leads to another file."""

    def elsewhere(name: str, link: object) -> str | None:
        return name if type(link).__name__ == "ExternalLink" else None

    # The first answer other than None ends the visit.
    found = file.visititems_links(elsewhere)
    if found is not None:
        raise ValueError(f"the file must hold its arrays itself, {found} is elsewhere.")


def _from_archive(config: Fields, file: Node, name: str | None) -> Source:
    """Reads a layer of a `.keras` file; the model's config tells where its weights lie."""
    path, entry = _pick_entry(config, name)
    return Source(entry["class_name"], entry["config"], _weights(file[path]))


def _from_weights(file: Node, name: str | None) -> Source:
    """Reads a layer of a `.weights.h5` file, by its own name or the path of its group."""
    groups = {path: group for path, group in _groups(file) if _is_gru(group)}
    named = _by_name([(_own_name(group) or path, path, group) for path, group in groups.items()])
    group = pick(groups if name in groups else named, name, "the file's GRU layers")
    if "forward_layer" not in group:
        return Source("GRU", None, _weights(group))
    forward = len(_weights(group["forward_layer"]))
    return Source("Bidirectional", None, _weights(group), forward)


def _from_legacy(file: Node, name: str | None) -> Source:
    """Reads a layer of an `.h5` file of a model or of its weights, by Keras 1 or later."""
    weights = {}
    root = file["model_weights"] if "model_weights" in file else file
    for layer in _strings(root, "layer_names"):
        for path in _strings(root[layer], "weight_names"):
            # "gru/kernel:0", "gru/gru_cell/kernel:0", "model/gru/gru_cell/kernel", ...
            *owners, variable = path.split(":")[0].split("/")
            if variable in ("kernel", "recurrent_kernel", "bias"):
                array = _array(root[layer][path])
                for owner in dict.fromkeys((layer, *owners)):
                    weights.setdefault(owner, []).append(array)
    if "model_config" not in file.attrs:
        found = {layer: arrays for layer, arrays in weights.items() if _is_weight_list(arrays)}
        layers = set(_strings(root, "layer_names"))
        arrays = pick({key: found[key] for key in found if key in layers}, name, "the file's GRUs")
        kind = "GRU" if len(arrays) < 4 else "Bidirectional"
        old = keras2.is_version(root.attrs.get("keras_version"))
        return Source(kind, None, arrays, keras_2=old)
    config = read_json("the model's config", file.attrs["model_config"])
    _, entry = _pick_entry(config, name)
    return Source(entry["class_name"], entry["config"], weights.get(entry["config"]["name"], []))


def _pick_entry(config: Fields, name: str | None) -> tuple[str, Fields]:
    """Finds the path and the entry of a layer in a model's config."""
    entries = [(entry["config"]["name"], path, (path, entry)) for path, entry in _entries(config)]
    return pick(_by_name(entries), name, "the file's GRU layers")


def _by_name(found: Sequence[tuple[str, str, T]]) -> dict[str, T]:
    """Makes a dict of values by name, or by path where several have the same name."""
    counts = collections.Counter(name for name, _, _ in found)
    return {name if counts[name] == 1 else path: value for name, path, value in found}


def _entries(config: Fields, path: str = "") -> Iterator[tuple[str, Fields]]:
    """Yields the path in Keras 3's files and entry of each GRU, nested models included."""
    inner = config["config"] if isinstance(config, Mapping) else None
    if not isinstance(inner, (Mapping, list)):
        raise ValueError(f"the config of a model must be a dict, got {brief(config)}.")
    # Keras before 2.2.3 wrote a Sequential as a list.
    layers = inner if isinstance(inner, list) else inner.get("layers", [])
    counts = collections.Counter()
    for entry in layers:
        kind = snake_case(entry["class_name"])
        place = f"{path}layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        if _holds_gru(entry):
            yield place, entry
        elif "config" in entry:
            yield from _entries(entry, f"{place}/")


def _holds_gru(entry: Fields) -> bool:
    """Returns whether an entry of a config is a GRU, or a layer around one."""
    config = entry.get("config", {})
    if entry["class_name"] == "StackedRNNCells":
        return all(map(_holds_gru, config["cells"]))
    wrapped = {"Bidirectional": "layer", "RNN": "cell"}.get(entry["class_name"])
    return _holds_gru(config[wrapped]) if wrapped else entry["class_name"] in _LAYERS


def _groups(group: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yields the path and the group of each layer of a Keras 3 file: the members of "layers"."""
    for name in group.get("layers", {}):
        layer = group["layers"][name]
        yield f"{path}layers/{name}", layer
        yield from _groups(layer, f"{path}layers/{name}/")


def _own_name(group: Node) -> str | None:
    """Returns the name of a layer if Keras wrote it into its group; paths have class names only."""
    return group["vars"].attrs.get("name") if "vars" in group else None


def _is_gru(group: Node) -> bool:
    """Returns whether the group of a layer holds the weights of a GRU or a Bidirectional."""
    layer = group.get("forward_layer", group)
    # With several cells, only a config can tell which of them have a bias.
    if "cell" not in layer or "cells" in layer["cell"]:
        return False
    return _is_weight_list(_weights(group))


def _is_weight_list(arrays: list[np.ndarray]) -> bool:
    """Returns whether arrays are the weights of a GRU or of two; an LSTM has a matrix [u, 4u]."""
    if len(arrays) not in (2, 3, 4, 5, 6) or arrays[1].ndim != 2:
        return False
    return arrays[1].shape[1] == 3 * arrays[1].shape[0]


def _weights(group: Node) -> list[np.ndarray]:
    """Reads the weights of the group of a cell, or of a layer with cells or layers, in order."""
    if "cells" in group:
        cells = sorted(group["cells"], key=lambda name: (len(name), name))
        return [array for name in cells for array in _weights(group["cells"][name])]
    inner = [name for name in ("forward_layer", "backward_layer", "cell") if name in group]
    if inner:
        return [array for name in inner for array in _weights(group[name])]
    variables = group["vars"]
    return [_array(variables[name]) for name in sorted(variables, key=int)]


def _array(dataset: Node) -> np.ndarray:
    """Reads an array of floats that lies in this file."""
    kind = getattr(dataset, "dtype", None)
    if kind is None or kind.kind not in "fuV":
        raise ValueError(f"{dataset.name} must be an array of floats, got {kind or 'a group'}.")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the file must hold its arrays itself, {dataset.name} is elsewhere.")
    # A small file can declare a huge shape and store no numbers. The chunks of a compressed
    # array have sizes of their own.
    if dataset.compression is None and dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"the file must hold its arrays whole, {dataset.name} is not.")
    array = np.array(dataset)
    if dataset.attrs.get("dtype") == "bfloat16":
        return array.view(jnp.bfloat16)
    return array


def _strings(group: Node, name: str) -> list[str]:
    """Reads a list of names in an attribute; Keras splits a long one into `name0`, `name1`, ..."""
    values = list(group.attrs.get(name, ()))
    for index in itertools.count():
        if f"{name}{index}" not in group.attrs:
            break
        values.extend(group.attrs[f"{name}{index}"])
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
