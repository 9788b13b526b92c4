"""Reading the HDF5 files of Keras 1 and 2, where the names of weights tell whose they are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gruflax.convert.hdf5 import Node, is_gru, read_array, read_strings
from gruflax.convert.keras_configs import Entry, Found, entries
from gruflax.convert.keras_layers import Source
from gruflax.convert.weights import Fields, read_json
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


def legacy_layers(file: Node) -> list[Found]:
    """Finds the GRUs in an `.h5` file of a model or of its weights, by Keras 1 or later."""
    root = file["model_weights"] if "model_weights" in file else file
    pools = {layer: _cells(root[layer]) for layer in read_strings(root, "layer_names")}
    found = []
    if "model_config" in file.attrs:
        config = read_json("the model's config", file.attrs["model_config"])
        for entry in entries(config):
            if entry.layer is not None:
                found.append(_with_config(entry, _pool(pools, entry)))
    old = keras2.is_version(root.attrs.get("keras_version"))
    for layer, pool in pools.items():
        found.extend(_by_weights(layer, pool, old))
    return found


def _pool(pools: Mapping[str, list[Cell]], entry: Entry) -> list[Cell]:
    """Returns the cells of the layer of a model that an entry belongs to."""
    if entry.names[0] in pools:
        return pools[entry.names[0]]
    # Keras before 2.2.3 wrote no name of a Sequential inside of a model.
    own = [pool for pool in pools.values() if any(entry.names[-1] in each.owners for each in pool)]
    return own[0] if own else []


def _cells(group: Node) -> list[Cell]:
    """Reads the names of the weights of one layer of a model, which may be a model itself."""
    found: dict[tuple, dict[str, Node]] = {}
    for path in read_strings(group, "weight_names"):
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
    in_order = sorted(found.items(), key=lambda item: int(item[0][1] or 0))
    cells = [Cell(owners, _joined(arrays)) for (owners, _), arrays in in_order]
    return [cell for cell in cells if is_gru(cell.weights)]


def _joined(arrays: dict[str, Node]) -> list[Node]:
    """Returns a cell's weights in order, those of Keras 1 with all gates side by side."""
    for name in _NAMES:
        gates = [f"{name}{gate}" for gate in "zrh"]
        if all(gate in arrays for gate in gates):
            arrays[name] = np.concatenate([read_array(arrays[gate]) for gate in gates], axis=-1)
    return [arrays[name] for name in _NAMES if name in arrays]


def _with_config(entry: Entry, pool: list[Cell]) -> Found:
    """Takes the cells of one layer out of those that are left."""
    assert entry.layer is not None
    patterns = [re.escape(name) for name in entry.names]
    cells = [_take(pool, [*patterns, *own]) for own in _patterns(entry.layer)]
    source = Source(entry.layer["class_name"], entry.layer["config"], cells)
    return entry.found(source)


def _take(pool: list[Cell], patterns: Sequence[str]) -> Sequence[Node]:
    """Takes a cell out of those that are left: by its names or, where these do not tell, by order.

    The order alone is not enough: Keras writes the weights of frozen layers last.
    """
    left = [(cell, 0) for cell in pool]
    for pattern in patterns:
        matches = [
            (cell, index + 1)
            for cell, start in left
            if (index := _index(cell.owners, pattern, start)) is not None
        ]
        left = matches or left
    if not left:
        return []
    # Of layers with one name, the one that is in no model inside.
    cell, _ = min(left, key=lambda match: len(match[0].owners))
    pool[:] = [each for each in pool if each is not cell]
    return cell.weights


def _index(names: Sequence[str], pattern: str, start: int) -> int | None:
    """Returns the index of the first name from `start` on that matches a pattern."""
    found = (index for index in range(start, len(names)) if re.fullmatch(pattern, names[index]))
    return next(found, None)


def _patterns(layer: Fields) -> Iterator[list[str]]:
    """Yields for each cell of a layer the patterns of the names that it has in a file."""
    config = layer["config"]
    name = config.get("name", "")
    if layer["class_name"] == "Bidirectional":
        for way, inner in (
            ("forward", config["layer"]),
            ("backward", config.get("backward_layer") or config["layer"]),
        ):
            base = re.sub("^(forward|backward)_", "", inner["config"].get("name", ""))
            for own in _patterns(inner):
                yield [rf"{way}_.*", rf"{way}_{re.escape(base)}", *own]
    elif layer["class_name"] in ("RNN", "StackedRNNCells"):
        inner = [config["cell"]] if "cell" in config else config["cells"]
        for each in inner:
            yield from _patterns(each)
    else:
        yield [re.escape(name)]


def _by_weights(layer: str, pool: Sequence[Cell], keras_2: bool) -> Iterator[Found]:
    """Finds the GRUs among weights that no config describes, by the names of the weights."""
    layers: dict[tuple[str, ...], list[Cell]] = {}
    for cell in pool:
        layers.setdefault(_owner(cell), []).append(cell)
    for owner, cells in layers.items():
        short = (layer, *owner[-1:]) if len(layers) == 1 else owner[-1:]
        ways = sorted(_way(cell) for cell in cells)
        kind = "Bidirectional" if ways == ["backward", "forward"] else "RNN"
        # Of two directions the forward one comes first, of cells the one that was made first.
        cells.sort(key=lambda cell: (_way(cell) == "backward", _number(cell.owners[-1])))
        kind = "GRU" if len(cells) == 1 else kind
        yield Found(
            "/".join((layer, *owner)),
            short,
            Source(kind, None, [cell.weights for cell in cells], keras_2),
        )


def _way(cell: Cell) -> str:
    """Returns "forward" or "backward" for a cell of a Bidirectional, else ""."""
    ways = re.findall("(?:^|/)(forward|backward)_", "/".join(cell.owners))
    return ways[-1] if ways else ""


def _owner(cell: Cell) -> tuple[str, ...]:
    """Returns the names of the layers that a cell belongs to: without direction and cell."""
    for index, name in enumerate(cell.owners):
        if name.startswith(("forward_", "backward_")):
            return cell.owners[:index]
    return cell.owners[:-1] or cell.owners


def _number(name: str) -> int:
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0
