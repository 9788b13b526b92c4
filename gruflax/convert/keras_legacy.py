"""Reading the HDF5 files of Keras 1 and 2, where the names of weights tell whose they are."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gruflax.convert.hdf5 import Node, is_gru, read_array, read_strings
from gruflax.convert.keras_configs import Entry, Found, entries, warn_without_config
from gruflax.convert.keras_layers import Source, inner_entries, kind_of
from gruflax.convert.weights import read_json
from gruflax.keras_names import keras2


_NAMES = ("kernel", "recurrent_kernel", "bias")

# "kernel", or "kernel_1" of a second cell.
_VARIABLE = re.compile(r"(kernel|recurrent_kernel|bias)(?:_(\d+))?")

# Keras 1: "gru_1_W_z", one array for each gate, or "gru_1_W" with all gates.
_VARIABLE_1 = re.compile(r"(?:(.+)_)?([WUb])(?:_([zrh]))?(?:_\d+)?")


class Cell(NamedTuple):
    """The weights of one GRU cell in a file.

    Attributes:
        owners: the names before that of the weight: "bidirectional", "forward_gru", "gru_cell".
        weights: `kernel`, `recurrent_kernel` and the bias, if there is one.
    """

    owners: tuple[str, ...]
    weights: Sequence[Node]


class Place(NamedTuple):
    """Where a cell of a layer in a model's config may be found in a file.

    Attributes:
        patterns: the patterns of its owners' names, from the inside out.
        trains: whether it learns: Keras writes the weights of what does not behind all others. None
            for the directions of a Bidirectional of Keras 2, of which the config does not tell.
    """

    patterns: Sequence[str]
    trains: bool | None


def legacy_layers(file: Node) -> list[Found]:
    """Finds the GRUs in an `.h5` file of a model or of its weights, by Keras 1 or later."""
    root = file["model_weights"] if "model_weights" in file else file
    old = keras2.is_version(root.attrs.get("keras_version"))
    pools = {layer: _cells(root[layer]) for layer in read_strings(root, "layer_names")}
    known = []
    if "model_config" in file.attrs:
        config = read_json("the model's config", file.attrs["model_config"])
        known = [entry for entry in entries(config) if entry.layer is not None]
    found = []
    for layer, pool in pools.items():
        own = [entry for entry in known if _layer_of(entry, pools) == layer]
        cells = _assign([list(_places(entry)) for entry in own], pool)
        found.extend(_with_config(*each, old) for each in zip(own, cells, strict=True))
        taken = [id(cell) for each in cells for cell in each]
        left = [cell for cell in pool if id(cell) not in taken]
        found.extend(_by_weights(layer, left, old, bool(known)))
    return found


def _layer_of(entry: Entry, pools: Mapping[str, list[Cell]]) -> str | None:
    """Returns the name of the layer of the whole model that an entry belongs to."""
    if entry.names[0] in pools:
        return entry.names[0]
    # Keras before 2.2.3 wrote no name of a Sequential inside of a model.
    own = [
        layer
        for layer, pool in pools.items()
        if any(entry.names[-1] in cell.owners for cell in pool)
    ]
    return own[0] if own else None


def _cells(group: Node) -> list[Cell]:
    """Reads the names of the weights of one layer of a model, which may be a model itself."""
    found: dict[tuple, dict[str, Node]] = {}
    paths = read_strings(group, "weight_names")
    if len(set(paths)) < len(paths):
        # Keras wrote the weights of one layer over those of another.
        return []
    for path in paths:
        # "gru/kernel:0", "gru/gru_cell/kernel:0", "model/gru/gru_cell/kernel", ...
        *owners, variable = path.split(":")[0].split("/")
        if new := _VARIABLE.fullmatch(variable):
            key, name = ((*owners,), new[2]), new[1]
        elif old := _VARIABLE_1.fullmatch(variable):
            key = ((*owners, *filter(None, [old[1]])), None)
            name = _NAMES["WUb".index(old[2])] + (old[3] or "")
        else:
            continue
        found.setdefault(key, {})[name] = group[path]
    cells = [Cell(owners, _joined(arrays)) for (owners, _), arrays in found.items()]
    return [cell for cell in cells if is_gru(cell.weights)]


def _joined(arrays: dict[str, Node]) -> list[Node]:
    """Returns a cell's weights in order, those of Keras 1 with all gates side by side."""
    for name in _NAMES:
        gates = [f"{name}{gate}" for gate in "zrh"]
        if all(gate in arrays for gate in gates):
            arrays[name] = np.concatenate([read_array(arrays[gate]) for gate in gates], axis=-1)
    return [arrays[name] for name in _NAMES if name in arrays]


def _with_config(entry: Entry, cells: Sequence[Cell | None], keras_2: bool) -> Found:
    """Describes a layer whose config is in the file."""

    def read() -> Source:
        assert entry.layer is not None
        if None in cells:
            raise ValueError(
                f"the names of the weights in the file must tell which are those of "
                f"{entry.names[-1]!r}: load the model with Keras, and convert its layer."
            )
        weights = [cell.weights for cell in cells if cell is not None]
        return Source(entry.layer["class_name"], entry.layer["config"], weights, keras_2)

    return entry.found(read)


def _assign(places: Sequence[Sequence[Place]], pool: list[Cell]) -> list[list[Cell | None]]:
    """Finds the cells of several layers among those in a file; None where it cannot be told.

    Where everything learns, weights lie in the order of the config. Else their names tell, and the
    order, with what does not learn behind all others, only where names do not.
    """
    flat = [place for each in places for place in each]
    order = sorted(flat, key=lambda place: place.trains is False)
    by_order: dict[int, Cell | None] = {}
    if len(order) == len(pool) and all(place.trains is not None for place in flat):
        by_order = {id(place): cell for place, cell in zip(order, pool, strict=True)}
    sure = bool(by_order) and all(place.trains for place in flat)
    return [
        [
            by_order[id(place)] if sure else _by_name(place, pool) or by_order.get(id(place))
            for place in each
        ]
        for each in places
    ]


def _by_name(place: Place, pool: list[Cell]) -> Cell | None:
    """Returns the only cell whose owners have the names of a place, as far as they have any."""
    left = [(cell, len(cell.owners)) for cell in pool]
    for pattern in place.patterns:
        matches = [
            (cell, index)
            for cell, end in left
            if (index := _last(pattern, cell.owners[:end])) is not None
        ]
        left = matches or left
    return left[0][0] if len(left) == 1 else None


def _last(pattern: str, names: Sequence[str]) -> int | None:
    """Returns the index of the last name that matches a pattern."""
    found = [index for index, name in enumerate(names) if re.fullmatch(pattern, name)]
    return found[-1] if found else None


def _places(entry: Entry) -> Iterator[Place]:
    """Yields the place of each cell of a layer."""
    outer = [re.escape(name) for name in reversed(entry.names)]
    for patterns, trains in _inner_places(entry.layer):
        yield Place([*patterns, *outer], trains if entry.trains else False)


def _inner_places(entry: object) -> Iterator[Place]:
    """Yields the place of each cell inside of an entry, without the names of what is around it."""
    assert isinstance(entry, Mapping)
    kind, config, inner = kind_of(entry), entry["config"], inner_entries(entry)
    places = [] if inner else [Place([], True)]
    ways = ("forward", "backward") if kind == "Bidirectional" else ("",) * len(inner)
    for way, each in zip(ways, inner, strict=True):
        assert isinstance(each, Mapping)
        name = str(each["config"].get("name", ""))
        own = _direction_names(way, name) if way else [re.escape(name)]
        # The config of Keras 2 has no entry for what goes backwards, and the other is a copy.
        known = True if not way or config.get("backward_layer") else None
        for patterns, trains in _inner_places(each):
            places.append(Place([*patterns, *own], trains and known))
    for place in places:
        yield place if config.get("trainable", True) else place._replace(trains=False)


def _direction_names(way: str, name: str) -> list[str]:
    """Returns patterns of the name that a direction of a Bidirectional has in a file."""
    # Keras puts the direction in front of a name, which in a config may be the new one.
    names = [f"{way}_{name}", f"{way}_{re.sub('^(forward|backward)_', '', name)}", name]
    own = [each for each in names if each.startswith(f"{way}_")]
    return ["|".join(map(re.escape, own)), f"{way}_.*"]


def _by_weights(layer: str, pool: Sequence[Cell], keras_2: bool, is_model: bool) -> Iterator[Found]:
    """Finds the GRUs among weights that no config describes, by the names of the weights."""
    layers: dict[tuple[str, ...], list[Cell]] = {}
    for cell in pool:
        layers.setdefault(_owner(cell, pool), []).append(cell)
    for owner, cells in layers.items():
        short = (layer, *owner[-1:]) if len(layers) == 1 else owner[-1:]
        read = functools.partial(_read_cells, layer, cells, keras_2, is_model)
        yield Found("/".join((layer, *owner)), short, read)


def _read_cells(name: str, cells: Sequence[Cell], keras_2: bool, is_model: bool) -> Source:
    """Puts the cells of a layer into order: forward before backward, lower before upper."""
    if is_model:
        warn_without_config(name)
    halves = [[cell for cell in cells if _way(cell) == way] for way in ("forward", "backward")]
    pair = len(halves[0]) == len(halves[1]) > 0
    ordered = [cell for half in (halves if pair else [cells]) for cell in _in_order(name, half)]
    kind = "Bidirectional" if pair else "GRU" if len(cells) == 1 else "RNN"
    return Source(kind, None, [cell.weights for cell in ordered], keras_2)


def _in_order(name: str, cells: Sequence[Cell]) -> Sequence[Cell]:
    """Returns cells in the order of the file, if the numbers in their names do not deny it."""
    numbers = [int(re.findall(r"_(\d+)$|$", cell.owners[-1])[0] or 0) for cell in cells]
    if numbers != sorted(numbers):
        raise ValueError(
            f"the order of the cells of {name!r} in the file must be that of their names, got "
            f"{[cell.owners[-1] for cell in cells]}: load the weights with Keras, and convert the "
            "layer."
        )
    return cells


def _way(cell: Cell) -> str:
    """Returns "forward" or "backward" for a cell of a Bidirectional, else ""."""
    index = _last("(forward|backward)_.*", cell.owners)
    return "" if index is None else cell.owners[index].partition("_")[0]


def _owner(cell: Cell, pool: Sequence[Cell]) -> tuple[str, ...]:
    """Returns the names of the layers that a cell belongs to: without direction and cell."""
    index = _last("(forward|backward)_.*", cell.owners)
    if index is not None:
        owner, way = cell.owners[:index], _way(cell)
        # From TensorFlow 2 on the names of a Bidirectional's weights begin with its own.
        if (owner or len(cell.owners) == 1) and any(
            each.owners[:index] == owner and _way(each) not in ("", way) for each in pool
        ):
            return owner
    return cell.owners[:-1] or cell.owners
