"""Keras' activations, from names, config dicts, activation layers and callables."""

import dataclasses
import functools
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from gruflax.functional.activations import Function, get_activation, named_activation


# What names an activation: see `identify`.
Identifier: TypeAlias = str | Mapping[str, object] | Function | None


@dataclasses.dataclass(frozen=True)
class ELU:
    """Returns `x` where it is positive, else `alpha (exp(x) - 1)`."""

    alpha: float = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x`."""
        return jax.nn.elu(x, self.alpha)


@dataclasses.dataclass(frozen=True)
class LeakyReLU:
    """Returns `x` where it is positive, else `negative_slope x`."""

    negative_slope: float = 0.3

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x`."""
        return jax.nn.leaky_relu(x, self.negative_slope)


@dataclasses.dataclass(frozen=True)
class ReLU:
    """Returns `x` above a threshold, cut off at `max_value`; below a line through the threshold."""

    max_value: float | None = None
    negative_slope: float = 0.0
    threshold: float = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x`."""
        above = x if self.max_value is None else jnp.minimum(x, self.max_value)
        return jnp.where(x > self.threshold, above, self.negative_slope * (x - self.threshold))


# What GRUs can hold of Keras' activation layers, with the functions that Keras has a name for.
_NAMES = {ELU(): "elu", LeakyReLU(0.2): "leaky_relu", ReLU(): "relu", ReLU(6.0): "relu6"}
_CLASSES = (ELU, LeakyReLU, ReLU)


def identify(identifier: Identifier, field: str = "activation") -> str | Function:
    """Returns one and the same value for every way to write the same activation.

    Args:
        identifier: a Keras name, the config dict of a function or of an activation layer, a
            callable, or None for linear.
        field: the argument's name, for errors.

    Returns:
        Keras' name; a callable that Keras has no name for is returned as it is.

    Raises:
        TypeError: `identifier` is none of these.
        ValueError: the name is unknown (the message lists the known ones), the config is malformed
            or has arguments that its function does not take, or the layer has weights or mixes
            the examples of a batch.
    """
    if isinstance(identifier, Mapping):
        identifier = _from_config(identifier, field)
    if isinstance(identifier, _CLASSES):
        return _NAMES.get(identifier, identifier)
    return named_activation(identifier, field)


def serialize(identifier: Identifier) -> object:
    """Returns what Keras 3 writes into a config: a name, or the config of an activation layer."""
    found = identify(identifier)
    if not isinstance(found, _CLASSES):
        return found
    return {
        "module": "keras.layers",
        "class_name": type(found).__name__,
        "config": dataclasses.asdict(found),
        "registered_name": None,
    }


def get(identifier: Identifier, field: str = "activation") -> Function:
    """Returns the function of an array `[..., u]` of anything that `identify` takes."""
    return get_activation(identify(identifier, field))


def _from_config(config: Mapping[str, object], field: str) -> str | Function:
    """Reads the config of a function or of an activation layer."""
    name, arguments = config.get("class_name"), config.get("config")
    if name == "function":
        # Keras 3 writes a function as class "function" with its name as the config.
        name, arguments = arguments, None
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise ValueError(f"config of {field} must name a function, got {reprlib.repr(config)}.")
    arguments = {key: value for key, value in arguments.items() if key not in _LAYER_KEYS}
    if name == "Activation":
        inner: Any = arguments.get("activation")
        return identify(inner, field)
    if name == "PReLU":
        raise ValueError(f"{field} must have no weights of its own, got the layer PReLU.")
    try:
        if not all(isinstance(value, int | float | None) for value in arguments.values()):
            raise TypeError
        return _LAYERS.get(name, functools.partial(_named, name))(**arguments)
    except TypeError:
        raise ValueError(
            f"config of {field} {name} has unknown keys, got {reprlib.repr(arguments)}."
        ) from None


def _named(name: str) -> str:
    """Reads a function, which takes no arguments."""
    return name


def _leaky_relu(negative_slope: float = 0.3, alpha: float | None = None) -> LeakyReLU:
    """Reads the layer of Keras 3, or of Keras 2, which calls the slope alpha."""
    return LeakyReLU(negative_slope if alpha is None else alpha)


def _thresholded_relu(theta: float = 1.0) -> ReLU:
    """Reads a layer of Keras 2, which Keras 3 does not have."""
    return ReLU(threshold=theta)


def _softmax(axis: int = -1) -> str:
    """Reads a softmax, which must be one over the units of a state [b, u]."""
    if axis not in (-1, 1):
        raise ValueError(f"axis of the activation Softmax must be that of the units, got {axis}.")
    return "softmax"


_LAYERS: dict[str, Callable[..., str | Function]] = {
    "ELU": ELU,
    "LeakyReLU": _leaky_relu,
    "ReLU": ReLU,
    "Softmax": _softmax,
    "ThresholdedReLU": _thresholded_relu,
}

# Entries in the config of any layer, which do not say what it computes.
_LAYER_KEYS = ("name", "trainable", "dtype", "batch_input_shape", "build_config")
