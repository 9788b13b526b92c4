"""Reading the files that Keras and TensorFlow write: `.keras`, `.weights.h5` and older `.h5`."""

import dataclasses
import functools
import io
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gruflax.convert.hdf5 import Node, check_links, is_gru, read_array
from gruflax.convert.keras_configs import Found, choose, entries, warn_without_config
from gruflax.convert.keras_layers import Source
from gruflax.convert.keras_legacy import legacy_layers
from gruflax.convert.weights import errors_as_value_errors, import_optional, read_json
from gruflax.keras_names import keras2


# Keras up to 2.14 had this name for the layers of a model, Keras 2.15 and 3 have "layers".
_OLD_LAYERS = "_layer_checkpoint_dependencies"


@dataclasses.dataclass
class Group:
    """The weights of a layer and of the layers inside of it, as they lie in a file.

    Attributes:
        groups: the layers inside, by the names of their attributes or classes.
        variables: the layer's own arrays, by their numbers.
        name: the name of the layer; None in files that do not have it.
    """

    groups: dict[str, "Group"] = dataclasses.field(default_factory=dict)
    variables: dict[str, Node] = dataclasses.field(default_factory=dict)
    name: str | None = None

    def at(self, path: str, make: bool = False) -> "Group":
        """Returns the group at a path of names joined by "/"; an empty one if there is none."""
        group = self
        for name in filter(None, path.split("/")):
            inner = group.groups.get(name, Group())
            group = group.groups.setdefault(name, inner) if make else inner
        return group

    def cells(self) -> list[list[Node]]:
        """Returns the weights of each cell of a recurrent layer, or those of another layer."""
        pair = ("forward_layer", "backward_layer")
        names = pair if set(pair) <= set(self.groups) else ("cell",)
        if "cells" in self.groups:
            inner = self.groups["cells"].in_order()
        elif set(names) <= set(self.groups):
            inner = [self.groups[name] for name in names]
        else:
            return [[self.variables[name] for name in sorted(self.variables, key=int)]]
        return [cell for group in inner for cell in group.cells()]

    def in_order(self) -> list["Group"]:
        """Returns the groups of a list of layers: "gru_cell", "gru_cell_1", ..."""
        kinds = {_split(name)[0] for name in self.groups}
        if len(kinds) > 1:
            raise ValueError(f"the cells of an RNN must be of one class, got {sorted(kinds)}.")
        return [self.groups[name] for name in sorted(self.groups, key=_split)]

    def kind(self) -> str | None:
        """Tells a layer of Keras by the names of its groups and the shapes of its weights."""
        within = {name for name, group in self.groups.items() if group.has_weights()}
        if within == {"forward_layer", "backward_layer"}:
            halves = {self.groups[name].kind() for name in within}
            return "Bidirectional" if halves <= {"GRU", "RNN"} else None
        if within == {"cell"}:
            kind = self.groups["cell"].kind()
            return {"GRUCell": "GRU", "StackedRNNCells": "RNN"}.get(str(kind))
        if within == {"cells"}:
            kinds = {group.kind() for group in self.groups["cells"].groups.values()}
            return "StackedRNNCells" if kinds == {"GRUCell"} else None
        return "GRUCell" if not within and is_gru(self.cells()[0]) else None

    def has_weights(self) -> bool:
        """Returns whether there are arrays in this group or inside of it."""
        return bool(self.variables) or any(each.has_weights() for each in self.groups.values())

    def grus(self, path: str = "") -> Iterator[tuple[str, "Group"]]:
        """Yields the path and the group of each GRU inside, of whatever layers are around it."""
        for name, group in self.groups.items():
            place = f"{path}/{name}".strip("/")
            if group.kind() in ("GRUCell", "GRU", "RNN", "Bidirectional"):
                yield place, group
            else:
                yield from group.grus(place)


def read_keras(path: str, name: str | None) -> Source:
    """Reads one layer out of a file. Nothing in the file is executed or unpickled."""
    h5py = import_optional("Keras files", "h5py")
    if path.endswith(".weights.json"):
        raise ValueError(
            f"{path} is the index of weights in several files: load the model with Keras, and "
            "convert its layer."
        )
    with errors_as_value_errors(f"{path} must be a whole .keras, .weights.h5 or .h5 file of Keras"):
        if not (os.path.isdir(path) or zipfile.is_zipfile(path)):
            with h5py.File(path, "r") as file:
                return _read(file, name)
        weights, *archive = _unpacked(path)
        with h5py.File(io.BytesIO(weights), "r") as file:
            return _read(file, name, archive)


def _unpacked(path: str) -> tuple[bytes, object, bool | None]:
    """Reads a `.keras` file, or its folder: the weights, the config, whether Keras 2 wrote it."""
    folder = pathlib.Path(path) if os.path.isdir(path) else zipfile.Path(path)
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{path} must hold config.json and model.weights.h5, as a .keras file does. Load a "
            "SavedModel by TensorFlow, and convert its layer."
        )
    config = read_json("the model's config", (folder / "config.json").read_bytes())
    old = None
    if (folder / "metadata.json").exists():
        metadata = read_json("the file's metadata", (folder / "metadata.json").read_bytes())
        old = keras2.is_version(metadata["keras_version"])
    return (folder / "model.weights.h5").read_bytes(), config, old


def _read(file: Node, name: str | None, archive: Sequence[Any] = ()) -> Source:
    """Reads one layer of an HDF5 file, and of the config that lies beside it in a `.keras` file."""
    check_links(file)
    if archive:
        found = _with_config(_group(file), *archive)
    elif "layer_names" in file.attrs or "model_weights" in file:
        found = legacy_layers(file)
    else:
        found = list(_by_weights(_group(file).grus(), _is_old(file), is_model=False))
    source = choose(found, name, "the file's GRU layers")
    if not all(source.cells):
        raise ValueError(f"the file must hold the weights of the {source.class_name}.")
    cells = [[read_array(array) for array in cell] for cell in source.cells]
    return source._replace(cells=cells)


def _with_config(root: Group, config: object, keras_2: bool | None) -> list[Found]:
    """Finds the GRUs of a `.keras` file; the model's config tells where their weights lie."""
    found, known = [], list(entries(config))
    for entry in known:
        group = root.at(entry.path)
        if entry.layer is not None:
            # A layer that several models have lies where Keras came upon it first.
            own = entry.layer["config"]
            same = [each for each in known if each.layer and each.layer["config"] == own]
            groups = [group, *(root.at(each.path) for each in same)]
            group = next((each for each in groups if each.has_weights()), group)
            layer = Source(entry.layer["class_name"], own, group.cells(), keras_2)
            found.append(entry.found(functools.partial(Source, *layer)))
            continue
        paths = {each.path for each in known if each.layer is not None}
        unknown = ((place, gru) for place, gru in group.grus(entry.path) if place not in paths)
        found.extend(_by_weights(unknown, bool(keras_2), is_model=True))
    # What lies inside of several layers that the config does not describe was found in each.
    return list({(each.name, each.short): each for each in found}.values())


def _by_weights(
    grus: Iterable[tuple[str, Group]], keras_2: bool, is_model: bool
) -> Iterator[Found]:
    """Describes GRUs among weights that no config describes, by the shapes of the weights."""
    for place, gru in grus:

        def read(place=place, gru=gru) -> Source:
            if is_model:
                warn_without_config(place)
            return Source(str(gru.kind()), None, gru.cells(), keras_2)

        yield Found(place, () if gru.name is None else (gru.name,), read)


def _is_old(file: Node) -> bool:
    return any(name.startswith(_OLD_LAYERS) for name in file)


def _group(file: Node) -> Group:
    """Reads the names of all groups and arrays of a file in the form of Keras 3."""
    root = Group()

    def visit(name: str, node: Node) -> None:
        # Files written on Windows have backslashes in the names of groups.
        *owners, last = name.replace("\\", "/").split("/")
        if last == "vars":
            root.at("/".join(owners), make=True).name = node.attrs.get("name")
        elif owners and owners[-1] == "vars":
            root.at("/".join(owners[:-1]), make=True).variables[last] = node
        else:
            root.at("/".join((*owners, last)), make=True)

    file.visititems(visit)
    _rename_old_layers(root)
    return root


def _rename_old_layers(group: Group) -> None:
    """Renames the groups of Keras up to 2.14, whose numbers count a layer with weights twice."""
    if _OLD_LAYERS in group.groups:
        renamed, counts = Group(), {}
        old = group.groups.pop(_OLD_LAYERS).groups
        for name in sorted(old, key=_split):
            kind = _split(name)[0]
            number = counts[kind] = counts.get(kind, -1) + 1
            renamed.groups[f"{kind}_{number}" if number else kind] = old[name]
        group.groups["layers"] = renamed
    for inner in group.groups.values():
        _rename_old_layers(inner)


def _split(name: str) -> tuple[str, int]:
    """Splits the name of a group into a class and a number: "gru_cell_10" -> ("gru_cell", 10)."""
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if kind and re.fullmatch(r"\d+", number) else (name, 0)
