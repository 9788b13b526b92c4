"""Making gruflax's layers from the configs and the weights of Keras' layers."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from gruflax.convert.assembly import Layer, pair_variables, sizes
from gruflax.convert.weights import Fields, Params, check_fits, make_params, weights_of
from gruflax.functional.checks import brief
from gruflax.keras_names import constraints, initializers, keras2, regularizers
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, StackedRNNCells
from gruflax.linen.config import DTYPE_KEYS, IGNORED_KEYS


LAYERS = ("GRU", "CuDNNGRU", "Bidirectional", "RNN")
_DIRECTIONS = ("GRU", "CuDNNGRU", "RNN")
_CELLS = ("GRUCell", "StackedRNNCells")

# The config of Keras 2's CuDNNGRU does not mention these arguments: it had only these values.
_CUDNN = {"reset_after": True, "recurrent_activation": "sigmoid"}

# What outputs do not depend on, so that it is left out where gruflax does not know it.
_NOT_NEEDED: dict[str, ModuleType] = {
    "initializer": initializers,
    "regularizer": regularizers,
    "constraint": constraints,
}

Module = TypeVar("Module", GRU, GRUCell)

# What a Bidirectional can hold.
Direction: TypeAlias = GRU | RNN


class Source(NamedTuple):
    """One Keras layer as it was read from a file or an object.

    Attributes:
        class_name: Keras' name of its class.
        config: the result of its `get_config`; None if it is unknown.
        cells: the weights of each GRU cell, forward before backward and lower before upper:
            `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and the bias, if there is one.
        keras_2: whether Keras 2 wrote the source; None if only the config may tell.
    """

    class_name: str
    config: Fields | None
    cells: Sequence[Sequence[Any]]
    keras_2: bool | None = None


class Context(NamedTuple):
    """What the parts of a layer are made from, besides their configs.

    Attributes:
        cells: the parameters of the cells that are left.
        fields: the fields that replace those of the configs.
        keras_2: that of the source.
    """

    cells: Iterator[Params]
    fields: Fields
    keras_2: bool | None

    def next(self) -> Params:
        """Takes the parameters of the next cell."""
        params = next(self.cells, None)
        if params is None:
            raise ValueError("the weights must be those of the config, got too few cells.")
        return params


def kind_of(entry: object) -> str | None:
    """Returns which class of Keras an entry of a config describes; None if it is none of these.

    Subclasses are told by their arguments: no other layer of Keras has these.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("config"), Mapping):
        return None
    kind, config = entry.get("class_name"), entry["config"]
    if kind in (*LAYERS, *_CELLS):
        return kind
    if "reset_after" in config:
        return "GRU" if "return_sequences" in config else "GRUCell"
    if "return_sequences" in config and "cell" in config:
        return "RNN"
    return "Bidirectional" if "merge_mode" in config and "layer" in config else None


def inner_entries(entry: object) -> list[object]:
    """Returns the entries that the config of a layer around others has, in the order of weights."""
    config = entry["config"] if isinstance(entry, Mapping) else {}
    kind = kind_of(entry)
    if kind == "Bidirectional":
        return [config.get("layer"), config.get("backward_layer") or config.get("layer")]
    if kind == "RNN":
        return [config.get("cell")]
    if kind == "StackedRNNCells":
        cells = config.get("cells")
        return cells if isinstance(cells, list) and cells else [None]
    return []


def holds_grus(entry: object) -> bool:
    """Returns whether an entry of a config is a GRU, or a layer around GRUs and nothing else."""
    return kind_of(entry) is not None and all(map(holds_grus, inner_entries(entry)))


def make_from_keras(source: Source, fields: Fields) -> Layer:
    """Makes a module and its variables from a layer that was read."""
    config = source.config
    if config is None:
        return _without_config(source, list(map(read_weights, source.cells)), fields)
    if not isinstance(config, Mapping):
        raise ValueError(f"the layer's config must be a dict, got {brief(config)}.")
    entry = {"class_name": source.class_name, "config": config}
    kind, _ = _checked("layer", entry, LAYERS)
    if not any(map(len, source.cells)):
        raise ValueError("the layer must have weights: build it first.")
    # Each cell's weights are read when the config has said that it is a GRU's.
    cells = map(read_weights, source.cells)
    build = _bidirectional if kind == "Bidirectional" else _direction
    module, params = build("layer", entry, Context(cells, fields, source.keras_2))
    if next(cells, None) is not None:
        raise ValueError(f"the weights must be those of the config, got {len(source.cells)} cells.")
    return module, {"params": params}


def read_weights(weights: Sequence[np.ndarray]) -> Params:
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


def _without_config(source: Source, cells: list[Params], fields: Fields) -> Layer:
    """Makes a layer from weights and fields alone, with an RNN where cells are stacked."""
    if source.keras_2:
        fields = keras2.meant(fields)
    if source.class_name != "Bidirectional":
        module, params = _bare(cells, fields)
        return module, {"params": params}
    (forward, params), (backward, others) = (
        _bare(half, fields) for half in (cells[: len(cells) // 2], cells[len(cells) // 2 :])
    )
    backward = backward.clone(go_backwards=not forward.go_backwards)
    return Bidirectional(forward, "concat", backward), pair_variables(params, others)


def _bare(cells: list[Params], fields: Fields) -> tuple[Direction, Params]:
    """Makes a GRU from the parameters of one cell, or an RNN from those of several."""
    if len(cells) == 1:
        gru = GRU(**{**sizes(cells[0]), **fields})
        check_fits(gru, cells[0])
        return gru, cells[0]
    own, others = _split_fields(fields)
    stacked = [GRUCell(**{**sizes(params), **others}) for params in cells]
    for cell, params in zip(stacked, cells, strict=True):
        check_fits(cell, params)
    return RNN(StackedRNNCells(stacked), **own), {"cell": _numbered(cells)}


def _direction(key: str, entry: object, context: Context) -> tuple[Direction, Params]:
    """Makes a GRU or an RNN from an entry of a config."""
    kind, config = _checked(key, entry, _DIRECTIONS)
    if kind != "RNN":
        params = context.next()
        return _module(GRU, entry, params, context), params
    own, others = _split_fields(context.fields)
    cell, params = _cell(config.get("cell"), context._replace(fields=others))
    config = _without({"name"}, _known(entry, RNN))
    return RNN.from_config(config | {"cell": cell}).clone(**own), {"cell": params}


def _bidirectional(key: str, entry: object, context: Context) -> tuple[Bidirectional, Params]:
    """Makes a Bidirectional of GRUs or of RNNs."""
    _checked(key, entry, ("Bidirectional",))
    config = _known(entry, Bidirectional)
    (forward, params), (backward, others) = (
        _direction(key, inner, context)
        for key, inner in zip(("layer", "backward_layer"), inner_entries(entry), strict=True)
    )
    merge_mode = config.get("merge_mode", "concat")
    own = [backward] if config.get("backward_layer") else []
    module = Bidirectional(forward, merge_mode, *own)
    return module, pair_variables(params, others)["params"]


def _cell(entry: object, context: Context) -> tuple[GRUCell | StackedRNNCells, Params]:
    """Makes a GRUCell, or several on top of each other."""
    kind, _ = _checked("cell", entry, _CELLS)
    if kind == "GRUCell":
        params = context.next()
        return _module(GRUCell, entry, params, context), params
    cells = []
    for index, inner in enumerate(inner_entries(entry)):
        _checked(index, inner, _CELLS[:1])
        cells.append(_cell(inner, context))
    modules, params = zip(*cells, strict=True)
    return StackedRNNCells(modules), _numbered(params)


def _numbered(cells: Sequence[Params]) -> Params:
    return {f"cells_{index}": params for index, params in enumerate(cells)}


def _split_fields(fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits fields into those of an RNN and those of its cells."""
    names = {field.name for field in dataclasses.fields(RNN)}
    own = {name: value for name, value in fields.items() if name in names}
    return own, {name: value for name, value in fields.items() if name not in names}


def _checked(key: str | int, entry: object, classes: tuple[str, ...]) -> tuple[str, Fields]:
    """Returns the class and the config of an entry, or raises a ValueError if it is another one."""
    kind = kind_of(entry)
    if kind not in classes or not isinstance(entry, Mapping):
        given = entry.get("class_name") if isinstance(entry, Mapping) else None
        raise ValueError(f"the config's {key} must be one of {classes}, got {given}: not a GRU.")
    return kind, entry["config"]


def _module(cls: type[Module], entry: object, params: Params, context: Context) -> Module:
    """Makes a GRU or GRUCell from a Keras config, and checks that the parameters fit it."""
    fields = context.fields
    config = keras2.from_keras_1(_known(entry, cls))
    old = context.keras_2
    if old is None:
        old = keras2.has_arguments(config)
    # A Keras model names its layers; in Flax the owner of a layer names it.
    config = _without({"name", *fields} - {"units"}, config)
    config = _without(_warn_of_unknown(config), config)
    if "recurrent_activation" not in config:
        config |= _CUDNN
    # Keras before 2.2 had only reset_after=False, and its configs do not mention it.
    config.setdefault("reset_after", "bias" in params and params["bias"].ndim == 2)
    if old:
        config, fields = keras2.meant(config), keras2.meant(fields)
    try:
        module = cls.from_config(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the config must be a {cls.__name__}'s: {error}") from error
    module = module.clone(**fields)
    weights_of(module, params)
    return module


def _known(entry: object, cls: type) -> dict[str, Any]:
    """Returns the config of an entry; of a subclass, with a warning, what its class has too."""
    assert isinstance(entry, Mapping)
    name, config = entry.get("class_name"), dict(entry["config"])
    if name in LAYERS + _CELLS:
        return config
    known = {field.name for field in dataclasses.fields(cls)}
    extra = set(config) - known - {"trainable", *DTYPE_KEYS, *IGNORED_KEYS}
    also = f", nor what {sorted(extra)} in its config mean" if extra else ""
    warnings.warn(
        f"{name} is converted as Keras' {cls.__name__}: what the subclass computes otherwise is "
        f"not known{also}.",
        stacklevel=2,
    )
    return _without(extra, config)


def _without(names: set[str], config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


def _warn_of_unknown(config: Fields) -> set[str]:
    """Returns what outputs do not depend on and gruflax does not know, with a warning."""
    unknown = {
        key: value
        for key, value in config.items()
        if (kind := key.rsplit("_", 1)[-1]) in _NOT_NEEDED
        and not _is_known(_NOT_NEEDED[kind], value)
    }
    if unknown:
        warnings.warn(
            f"{_described(unknown)} left out, which gruflax does not know. Outputs do not depend "
            "on it.",
            stacklevel=2,
        )
    return set(unknown)


def _described(entries: Mapping[str, object]) -> str:
    """Names the classes of some entries of a config."""
    names = {
        key: value.get("class_name") if isinstance(value, Mapping) else brief(value)
        for key, value in entries.items()
    }
    return ", ".join(f"{key} {name}" for key, name in names.items())


def _is_known(module: ModuleType, identifier: object) -> bool:
    try:
        module.identify(identifier)
    except (TypeError, ValueError):
        # Keras initializes with arrays and generators too, which are no damage.
        return module is not initializers and module.knows(identifier)
    return True
