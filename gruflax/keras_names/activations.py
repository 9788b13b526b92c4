"""Keras' activations, from names, config dicts and callables."""

import reprlib
from collections.abc import Mapping
from typing import Any

from gruflax.functional.activations import Function, get_activation, named_activation


def identify(identifier: Any, field: str = "activation") -> str | Function:
    """Brings an activation to the form that is equal where activations are equal.

    Args:
        identifier: a Keras name, a config dict, a callable, or None for linear.
        field: the argument's name, for errors.

    Returns:
        Keras' name; a callable that Keras does not know as it is.

    Raises:
        TypeError: `identifier` is none of these.
        ValueError: the name is unknown; the message lists the known ones. Or the config is
            malformed, or has arguments: no function here takes any.
    """
    if isinstance(identifier, Mapping):
        identifier = _name(identifier, field)
    return named_activation(identifier, field)


# Keras' names are also what its configs hold.
serialize = identify


def get(identifier: Any, field: str = "activation") -> Function:
    """Looks up the function of `[..., u]` that `identify` finds the name of."""
    return get_activation(identify(identifier, field))


def _name(config: Mapping[str, Any], field: str) -> str:
    name, arguments = config.get("class_name"), config.get("config")
    if name == "function":
        # Keras 3 writes a function as class "function" with its name as the config.
        name, arguments = arguments, None
    if not isinstance(name, str):
        raise ValueError(f"config of {field} must name a function, got {reprlib.repr(config)}.")
    if arguments:
        raise ValueError(
            f"config of {field} {name} has unknown keys, got {reprlib.repr(arguments)}."
        )
    return name
