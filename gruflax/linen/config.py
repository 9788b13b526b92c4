"""Writes Keras 3's config dicts, and reads those of Keras 3, Keras 2 and TensorFlow."""

import dataclasses
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from gruflax.functional.checks import brief
from gruflax.keras_names import activations, constraints, initializers, keras2, regularizers
from gruflax.layers.fields import VARIANTS


# Arguments of `nn.scan`, which are written and read unchanged.
_LIFTING = ("variable_axes", "variable_carry", "split_rngs")

# Fields that Keras 3 does not write: they are written only where they differ from the default.
_UNWRITTEN = (
    "use_cudnn",
    "implementation",
    "time_major",
    "loop",
    "remat",
    "precision",
    "partitioned",
    *VARIANTS,
    *_LIFTING,
)

# Keys that older releases of Keras and TensorFlow write, and that a Flax module does not need.
IGNORED_KEYS = (
    "batch_input_shape",
    "enable_caching_device",
    "input_dim",
    "input_length",
    "input_shape",
    "rng_type",
)

_NAMED = {
    "activation": activations,
    "initializer": initializers,
    "regularizer": regularizers,
    "constraint": constraints,
}


T = TypeVar("T", bound=type[nn.Module])

# A config dict of Keras, or arguments read from one.
Config: TypeAlias = dict[str, Any]

# The classes that a config inside of another config may name, under Keras' names.
KERAS_CLASSES: dict[str, type[Any]] = {}


def keras_class(cls: T) -> T:
    """Registers a class under its name, by which Keras' configs refer to it."""
    KERAS_CLASSES[cls.__name__] = cls
    return cls


def write_config(module: nn.Module) -> Config:
    """Returns the config dict that Keras 3 would write for a module with the same fields."""
    config = {"name": module.name, "trainable": True, **written_dtypes(module)}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        written = field.name not in _UNWRITTEN or value != field.default
        if written and field.name not in ("parent", "name", "dtype", "param_dtype"):
            config[field.name] = _serialize(field.name, value)
    return config


def read_config(cls: type[nn.Module], config: Mapping[str, object]) -> Config:
    """Reads the arguments of a class from a config dict of Keras 3, tf.keras or gruflax."""
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict, got {brief(config)}.")
    config = {key: value for key, value in config.items() if key not in IGNORED_KEYS}
    if not config.pop("trainable", True):
        warnings.warn(
            "trainable=False is the optimiser's business in JAX: see optax.set_to_zero.",
            stacklevel=3,
        )
    known = {field.name for field in dataclasses.fields(cls)} - {"parent"}
    if keras2.has_arguments(config) and not keras2.has_arguments(known):
        # The layers of `gruflax.compat.v1` have Keras 2's arguments: they read them unchanged.
        config = keras2.meant(config)
    dtypes = read_dtypes(config)
    # An RNN has no dtype; its cell has one.
    config = {key: value for key, value in config.items() if key not in DTYPE_KEYS}
    arguments = {name: dtype for name, dtype in dtypes.items() if name in known} | config
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(f"config has unknown keys {unknown}; {cls.__name__} has {sorted(known)}.")
    missing = sorted(_required(cls) - set(arguments))
    if missing:
        raise ValueError(f"config of {cls.__name__} must have {missing}, got {sorted(config)}.")
    return {name: _deserialize(name, value) for name, value in arguments.items()}


# Keras' dtype policy, whether inputs are cast to it, and the dtype of parameters where no policy
# of Keras has that combination.
DTYPE_KEYS = ("dtype", "autocast", "param_dtype")


def written_dtypes(module: nn.Module) -> Config:
    """Writes the dtypes of a module in the form that `read_dtypes` reads."""
    stored = jnp.dtype(getattr(module, "param_dtype", jnp.float32)).name
    dtype = getattr(module, "dtype", None)
    computed = stored if dtype is None else jnp.dtype(dtype).name
    mixed = stored == "float32" and computed in ("float16", "bfloat16")
    config: Config = {"dtype": f"mixed_{computed}" if mixed else computed}
    if not mixed and computed != stored:
        config["param_dtype"] = stored
    fields = {"dtype", "param_dtype"} & {field.name for field in dataclasses.fields(module)}
    if fields and (read_dtypes(config).get("dtype") is None) != (dtype is None):
        config["autocast"] = dtype is not None
    return config


def read_dtypes(config: Mapping[str, Any]) -> dict[str, DTypeLike]:
    """Reads `dtype` and `param_dtype` from a config; fields with their default are left out."""
    policy = config.get("dtype")
    if isinstance(policy, Mapping):
        policy = (policy.get("config") or {}).get("name")
    if policy is None:
        policy = "float32"
    mixed = isinstance(policy, str) and policy.startswith("mixed_")
    try:
        computed = jnp.dtype(policy.removeprefix("mixed_") if isinstance(policy, str) else policy)
        stored = jnp.dtype(config.get("param_dtype", jnp.float32 if mixed else computed))
    except TypeError:
        raise ValueError(f"dtype must be a dtype or a Keras policy, got {brief(policy)}.") from None
    dtypes: dict[str, DTypeLike] = {} if stored == jnp.float32 else {"param_dtype": stored}
    if config.get("autocast", computed != jnp.float32 or computed != stored):
        dtypes["dtype"] = computed
    return dtypes


def _required(cls: type) -> set[str]:
    """Returns the names of the fields that have no default."""
    return {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
    }


def _kind(field: str) -> ModuleType | None:
    """Returns the module that reads a field such as `kernel_initializer`; None for other fields."""
    return _NAMED.get(field.rsplit("_", 1)[-1])


def _serialize(name: str, value: object) -> object:
    kind = _kind(name)
    if kind is not None:
        return kind.serialize(value)
    classes = tuple(KERAS_CLASSES.values())
    if isinstance(value, classes):
        layer: Any = value
        return {
            "module": "keras.layers",
            "class_name": type(layer).__name__,
            "config": layer.get_config(),
            "registered_name": None,
        }
    if isinstance(value, (tuple, list)) and any(isinstance(each, classes) for each in value):
        return [_serialize(name, item) for item in value]
    return value


def _deserialize(name: str, value: object) -> object:
    if isinstance(value, (tuple, list)):
        return tuple(_deserialize(name, item) for item in value)
    if not isinstance(value, Mapping) or name in _LIFTING:
        return value
    kind = _kind(name)
    if kind is not None:
        return kind.identify(value, name)
    cls = _class_named(name, value.get("class_name"))
    return cls.from_config(value.get("config") or {})


def _class_named(field: str, name: object) -> type[Any]:
    """Finds one of `KERAS_CLASSES`, or a subclass of one, by its name."""
    classes = list(KERAS_CLASSES.values())
    # The list grows during the iteration, so that subclasses of subclasses are found too.
    for cls in classes:
        if cls.__name__ == name:
            return cls
        classes.extend(cls.__subclasses__())
    raise ValueError(f"{field} must be one of {tuple(KERAS_CLASSES)}, got {name!r}.")
