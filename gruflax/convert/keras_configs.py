"""Finding GRUs in the configs of Keras' models, and choosing one of them by its name."""

import collections
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gruflax.convert.keras_layers import LAYERS, Source, holds_grus
from gruflax.convert.weights import Fields
from gruflax.functional.checks import brief
from gruflax.keras_names.registry import snake_case


# Models whose layers are all that they have.
_MODELS = ("Functional", "Model", "Sequential")

# What the configs of their subclasses have, too, and no layer of a user.
_MODEL_KEYS = {"input_layers", "build_input_shape"}


class Entry(NamedTuple):
    """A layer in the config of a model: a GRU, or one of whose insides the config says little.

    Attributes:
        names: the names of the models and layers around it, from the outside in, and its own.
        path: where a `.keras` file has its weights.
        layer: the class and the config of a GRU or a layer around GRUs; None for another layer.
        wrappers: how many layers such as `TimeDistributed` are directly around it.
        trains: whether the models and layers around it learn.
    """

    names: tuple[str, ...]
    path: str
    layer: Fields | None
    wrappers: int = 0
    trains: bool = True

    def found(self, read: Callable[[], Source]) -> "Found":
        """Returns the layer with its names, among them that of a `TimeDistributed` around it."""
        short = self.names[-1 - self.wrappers :]
        return Found("/".join(self.names), (*short, self.path), read)


class Found(NamedTuple):
    """A layer that was found in a model or a file.

    Attributes:
        name: its name, after those of the models and layers around it.
        short: what it may be called besides, if that is the name of no other layer.
        read: reads the layer.
    """

    name: str
    short: tuple[str, ...]
    read: Callable[[], Source]


def choose(found: Sequence[Found], name: str | None, what: str) -> Source:
    """Returns the layer of that name, or the only layer if no name is given."""
    exact = [each for each in found if name is None or name == each.name]
    matches = exact or [each for each in found if name in each.short]
    if len(matches) == 1:
        return matches[0].read()
    names = [{each.name, *each.short} for each in found]
    counts = collections.Counter(itertools.chain(*names))
    # Each layer is listed by the shortest of its names that is no other's.
    unique = [[name for name in each if counts[name] == 1] for each in names]
    listed = [
        min(short, key=lambda name: (len(name), name), default=each.name)
        for short, each in zip(unique, found, strict=True)
    ]
    raise ValueError(f"name must be one of {what}: {sorted(listed)}, got {name!r}.")


def warn_without_config(name: str) -> None:
    """Warns that a layer is made without a config, although its model has one."""
    warnings.warn(
        f"the model's config does not describe {name!r}: the layer has the defaults of gruflax.GRU "
        "and the fields that from_keras is given.",
        stacklevel=2,
    )


def entries(
    entry: object,
    names: tuple[str, ...] = (),
    path: str = "",
    wrappers: int = 0,
    trains: bool = True,
) -> Iterator[Entry]:
    """Yields the GRUs in an entry of a config, models inside of models included."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class_name"), str):
        raise ValueError(f"the config of a model must be a dict, got {brief(entry)}.")
    layers, config = _layers(entry), entry.get("config")
    config = config if isinstance(config, Mapping) else {}
    trains = trains and bool(config.get("trainable", True))
    if holds_grus(entry):
        yield Entry(names, path, entry, wrappers, trains)
    elif layers is not None:
        counts = collections.Counter()
        for layer in layers:
            kind = snake_case(_class_name(layer))
            place = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
            place = f"{path}/{place}".strip("/")
            yield from entries(layer, (*names, _name(layer)), place, 0, trains)
    else:
        # A wrapper such as TimeDistributed, or a user's layer whose config has those inside.
        for key, inner in config.items():
            if isinstance(inner, Mapping) and isinstance(inner.get("class_name"), str):
                place, around = f"{path}/{key}".strip("/"), wrappers + 1 if key == "layer" else 0
                yield from entries(inner, (*names, _name(inner)), place, around, trains)
        yield Entry(names, path, None, wrappers, trains)


def _layers(entry: Fields) -> Sequence[object] | None:
    """Returns the entries of a model's layers; None for a layer, or a model that does not say."""
    kind, config = entry["class_name"], entry.get("config")
    # Keras before 2.2.3 wrote a Sequential as a list.
    layers = config.get("layers") if isinstance(config, Mapping) else config
    is_model = kind in _MODELS or (
        isinstance(config, Mapping) and not _MODEL_KEYS.isdisjoint(config)
    )
    if is_model and isinstance(layers, list):
        return layers
    if kind in _MODELS or (kind in LAYERS and not isinstance(config, Mapping)):
        raise ValueError(f"the config of a model must be a dict, got {brief(entry)}.")
    return None


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
