"""Finding GRUs in the configs of Keras' models, and choosing one of them by its name."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gruflax.convert.keras_layers import LAYERS, Source, holds_grus
from gruflax.convert.weights import Fields
from gruflax.functional.checks import brief
from gruflax.keras_names.registry import snake_case


# Models whose layers are all that they have.
_MODELS = ("Functional", "Model", "Sequential")


class Entry(NamedTuple):
    """A layer in the config of a model: a GRU, or one whose insides the config does not show.

    Attributes:
        names: the names of the models and layers around it, from the outside in, and its own.
        path: where a `.keras` file has its weights.
        layer: the class and the config of a GRU or a layer around GRUs; None for another layer.
        wrappers: how many `TimeDistributed` are directly around it.
    """

    names: tuple[str, ...]
    path: str
    layer: Fields | None
    wrappers: int = 0

    @property
    def aliases(self) -> tuple[str, ...]:
        """Returns what it may be called: by its `TimeDistributed`, its own name, all names."""
        return (*self.names[-1 - self.wrappers :], "/".join(self.names), self.path)


class Found(NamedTuple):
    """A layer that was found in a model or a file, and what it may be called."""

    names: tuple[str, ...]
    source: Source


def choose(found: Sequence[Found], name: str | None, what: str) -> Source:
    """Returns the layer of that name, or the only layer if no name is given."""
    matches = [each.source for each in found if name is None or name in each.names]
    if len(matches) == 1:
        return matches[0]
    counts = collections.Counter(name for each in found for name in set(each.names))
    # Each layer is listed by the first of its names that is no other's.
    unique = [[name for name in each.names if counts[name] == 1] for each in found]
    listed = sorted((names or each.names)[0] for names, each in zip(unique, found, strict=True))
    raise ValueError(f"name must be one of {what}: {listed}, got {name!r}.")


def entries(
    entry: object, names: tuple[str, ...] = (), path: str = "", wrappers: int = 0
) -> Iterator[Entry]:
    """Yields the GRUs in an entry of a config, models inside of models included."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class_name"), str):
        raise ValueError(f"the config of a model must be a dict, got {brief(entry)}.")
    layers = _layers(entry)
    if holds_grus(entry):
        yield Entry(names, path, entry, wrappers)
    elif layers is not None:
        counts = collections.Counter()
        for layer in layers:
            kind = snake_case(_class_name(layer))
            place = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
            yield from entries(layer, (*names, _name(layer)), f"{path}/{place}".strip("/"))
    elif entry["class_name"] == "TimeDistributed":
        inner = entry["config"]["layer"]
        names = (*names, _name(inner))
        yield from entries(inner, names, f"{path}/layer", wrappers + 1)
    else:
        yield Entry(names, path, None, wrappers)


def _layers(entry: Fields) -> Sequence[object] | None:
    """Returns the entries of a model's layers; None for a layer, or a model that does not say."""
    kind, config = entry["class_name"], entry.get("config")
    # Keras before 2.2.3 wrote a Sequential as a list.
    layers = config.get("layers") if isinstance(config, Mapping) else config
    if isinstance(layers, list) and (kind in _MODELS or _are_entries(layers)):
        return layers
    if kind in _MODELS or (kind in LAYERS and not isinstance(config, Mapping)):
        raise ValueError(f"the config of a model must be a dict, got {brief(entry)}.")
    return None


def _are_entries(layers: list[object]) -> bool:
    """Returns whether a list is one of layers, and not, for example, one of their sizes."""
    return bool(layers) and all(
        isinstance(layer, Mapping) and "class_name" in layer for layer in layers
    )


def _class_name(entry: object) -> str:
    name = entry.get("class_name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(f"the config of a model must be a dict, got {brief(entry)}.")
    return name


def _name(entry: object) -> str:
    """Returns the name of a layer in a model's config; a layer of a user may have none there."""
    assert isinstance(entry, Mapping)
    config = entry.get("config")
    name = config.get("name") if isinstance(config, Mapping) else None
    name = entry.get("name", _class_name(entry)) if name is None else name
    if not isinstance(name, str):
        raise ValueError(f"the name of a layer must be text, got {brief(name)}.")
    return name
