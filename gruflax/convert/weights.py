"""Helpers of all converters: parameters of layers, and errors that name the damaged input."""

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gruflax.functional.checks import brief
from gruflax.functional.config import GRUConfig
from gruflax.functional.params import check_params, params_shapes
from gruflax.layers.fields import AXES, config_of
from gruflax.linen import GRU, GRUCell


# A GRU's parameters as NumPy arrays by name. The values are Any because JAX's functions accept
# NumPy arrays although their annotations ask for jax.Array.
Params: TypeAlias = dict[str, Any]

# The fields of a GRU, or a config of Keras: numbers, names, callables, dicts.
Fields: TypeAlias = Mapping[str, Any]

# Nested dicts of arrays: the variables of a module, or the parameters of another library.
Nested: TypeAlias = Mapping[str, Any]

T = TypeVar("T")


class Weights(NamedTuple):
    """The parameters of one direction of one layer, and the config of its GRU.

    Attributes:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u], [3u] or absent, and
            `initial_state` [u] if it is learned.
        config: the options of the GRU.
    """

    params: Params
    config: GRUConfig

    @property
    def units(self) -> int:
        """Returns the size of the state."""
        return self.params["recurrent_kernel"].shape[0]

    @property
    def features(self) -> int:
        """Returns the size of an input step."""
        return self.params["kernel"].shape[0]

    def biases(self) -> np.ndarray:
        """Returns the bias in the shape that the config asks for, zeros where there is none."""
        config = GRUConfig(reset_after=self.config.reset_after)
        shape = params_shapes(self.features, self.units, config)["bias"]
        return self.params.get("bias", np.zeros(shape, self.params["kernel"].dtype))


def make_params(kernel: object, recurrent_kernel: object, bias: object = None) -> Params:
    """Makes a GRU's parameters from arrays [f, 3u], [u, 3u] and a bias, or raises a ValueError."""
    given = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    params: Params = {
        name: np.array(each, order="C") for name, each in given.items() if each is not None
    }
    _check_floats(params)
    check_params(params, _config_for(params))
    return params


def weights_of(
    source: object, variables: Nested | None = None, learned_state: bool = False
) -> Weights:
    """Reads the weights of one GRU from bare params, or from a module and its variables.

    `learned_state` says whether the params may have an initial state.
    """
    module, given = (None, source) if variables is None else (source, variables)
    if not isinstance(given, Mapping):
        raise TypeError(f"variables must be a dict of arrays, got {brief(given)}.")
    if module is not None and not _is_gru(module):
        raise TypeError(f"module must be a gruflax.GRU or GRUCell, got {brief(module)}.")
    given = nn.unbox(given.get("params", given))
    params: Params = {name: np.asarray(each) for name, each in given.items()}
    _check_floats({name: array for name, array in params.items() if name in AXES})
    if module is None:
        config = _config_for(params)
        check_params(params, config)
    else:
        config = check_fits(module, params)
    if config.zoneout or (config.learn_initial_state and not learned_state):
        raise ValueError(
            "only a GRU with zoneout=0 and learn_initial_state=False can be converted, got "
            f"zoneout={config.zoneout}, learn_initial_state={config.learn_initial_state}."
        )
    return Weights(params, config)


def _is_gru(module: object) -> TypeGuard[GRU | GRUCell]:
    return hasattr(module, "recurrent_activation")


def check_fits(module: GRU | GRUCell, params: Params) -> GRUConfig:
    """Returns the config of a module, or raises a ValueError if the parameters do not fit it."""
    config = config_of(module)
    check_params(params, config, module.units)
    return config


def _check_floats(arrays: Params) -> None:
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be an array of floats, got {brief(array)}.")


def _config_for(params: Params) -> GRUConfig:
    """Returns the config for bare parameters, whose bias tells `use_bias` and `reset_after`."""
    bias = params.get("bias")
    return GRUConfig(use_bias=bias is not None, reset_after=bias is None or np.ndim(bias) == 2)


@contextlib.contextmanager
def errors_as_value_errors(what: str) -> Iterator[None]:
    """Turns the exceptions of damaged or hostile input into a ValueError that names the input."""
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:
        # HDF5, zip and protobuf raise exceptions of many kinds for damaged files.
        raise ValueError(f"{what}: {error}") from error


def read_json(what: str, text: str | bytes) -> Any:
    """Reads JSON, or raises a ValueError that begins with `what`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON: {error}") from error


def nest(arrays: Mapping[str, np.ndarray | None]) -> Params:
    """Puts arrays into nested dicts, by names that are paths joined with dots."""
    tree: Params = {}
    for path, array in arrays.items():
        *owners, name = path.split(".")
        node = tree
        for owner in owners:
            node = node.setdefault(owner, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"the file must not name {owner!r} both array and owner of {path!r}."
                )
        node[name] = array
    return tree


def pick(found: Mapping[str, T], name: str | None, what: str) -> T:
    """Returns the value of a name, or the only value if no name is given."""
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        raise ValueError(f"name must be one of {what}: {sorted(found)}, got {name!r}.")
    return found[name]


def import_optional(purpose: str, name: str, *submodules: str) -> ModuleType:
    """Imports a library and its submodules; an ImportError says how to install it."""
    try:
        library = importlib.import_module(name)
        for each in submodules:
            importlib.import_module(f"{name}.{each}")
    except ImportError as error:
        raise ImportError(
            f"{purpose} need {name}: pip install {name}, or gruflax with its extra [convert]."
        ) from error
    return library
