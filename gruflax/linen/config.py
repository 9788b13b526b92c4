"""Keras' config dicts, old and new, in and out."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from gruflax.named import activations, constraints, initializers, regularizers
from gruflax.named.fields import VARIANTS


# What Keras 3 does not write: in a config only where it differs from the default.
_UNWRITTEN = (
    "use_cudnn",
    "implementation",
    "time_major",
    "loop",
    "remat",
    "precision",
    "partitioned",
    *VARIANTS,
)

# What older releases of Keras and TensorFlow write and a Flax module has no use for.
_IGNORED = (
    "autocast",
    "batch_input_shape",
    "enable_caching_device",
    "input_dim",
    "input_length",
    "input_shape",
)

_NAMED = {
    "activation": activations,
    "initializer": initializers,
    "regularizer": regularizers,
    "constraint": constraints,
}


class Configurable(nn.Module):
    """Keras' `get_config` and `from_config` for a module whose fields have Keras' names."""

    @nn.nowrap
    def get_config(self) -> dict[str, Any]:
        """Returns the config dict that Keras 3 would write for this layer.

        What Keras does not write, such as `loop` or `zoneout`, is in it only where it differs from
        the default. A callable that Keras has no name for is in it as it is.

        Returns:
            A dict that `from_config`, of gruflax and of Keras 3, turns into an equal layer.
        """
        config = {"name": self.name, "trainable": True, "dtype": policy_name(self)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            written = field.name not in _UNWRITTEN or value != field.default
            if written and field.name not in ("parent", "name", "dtype", "param_dtype"):
                config[field.name] = _serialize(field.name, value)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes a layer from a config dict of Keras 3, tf.keras or gruflax.

        Args:
            config: as `get_config` returns it; `dtype` is a dtype or a Keras dtype policy.

        Returns:
            The layer.

        Raises:
            ValueError: a key is unknown, or a value is no valid argument.
        """
        config = {key: value for key, value in config.items() if key not in _IGNORED}
        if not config.pop("trainable", True):
            warnings.warn(
                "trainable=False is the optimiser's business in JAX: see optax.set_to_zero.",
                stacklevel=2,
            )
        known = {field.name for field in dataclasses.fields(cls)} - {"parent"}
        dtypes = policy_dtypes(config.pop("dtype", None))
        # An RNN has no dtype of its own: its cell has.
        arguments = {name: dtype for name, dtype in dtypes.items() if name in known} | config
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ValueError(
                f"config has unknown keys {unknown}; {cls.__name__} has {sorted(known)}."
            )
        if arguments.get("implementation") == 0:
            # TensorFlow 1 wrote 0 for what is 1 since.
            arguments["implementation"] = 1
        return cls(**{name: _deserialize(name, value) for name, value in arguments.items()})


def policy_name(module: nn.Module) -> str:
    """Returns the name of the Keras dtype policy of a module with `dtype` and `param_dtype`."""
    stored = jnp.dtype(getattr(module, "param_dtype", jnp.float32)).name
    computed = jnp.dtype(getattr(module, "dtype", None) or stored).name
    if computed == stored:
        return stored
    return f"mixed_{computed}" if stored == "float32" else computed


def policy_dtypes(policy: Any) -> dict[str, DTypeLike]:
    """Reads a Keras dtype policy.

    Args:
        policy: a name ("float32", "mixed_bfloat16", ...), a serialised DTypePolicy, a dtype, or
            None.

    Returns:
        The fields `dtype` and `param_dtype` that it sets; none for float32, which is the default.
    """
    if isinstance(policy, Mapping):
        policy = policy["config"]["name"]
    if policy is None or policy == "float32":
        return {}
    if isinstance(policy, str) and policy.startswith("mixed_"):
        return {"dtype": jnp.dtype(policy.removeprefix("mixed_"))}
    return {"dtype": jnp.dtype(policy), "param_dtype": jnp.dtype(policy)}


def _kind(field: str) -> Any:
    """The module that knows the names of a field such as `kernel_initializer`, or None."""
    return _NAMED.get(field.rsplit("_", 1)[-1])


def _serialize(name: str, value: Any) -> Any:
    kind = _kind(name)
    if kind is not None:
        return kind.serialize(value)
    if isinstance(value, (tuple, list)) and any(isinstance(item, Configurable) for item in value):
        return [_serialize(name, item) for item in value]
    if isinstance(value, Configurable):
        return {
            "module": "keras.layers",
            "class_name": type(value).__name__,
            "config": value.get_config(),
            "registered_name": None,
        }
    return value


def _deserialize(name: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_deserialize(name, item) for item in value)
    if not isinstance(value, Mapping):
        return value
    kind = _kind(name)
    if kind is not None:
        return kind.get(value)
    classes = {cls.__name__: cls for cls in Configurable.__subclasses__()}
    if value.get("class_name") not in classes:
        raise ValueError(
            f"{name} must be one of {sorted(classes)}, got {value.get('class_name')!r}."
        )
    return classes[value["class_name"]].from_config(value["config"])
