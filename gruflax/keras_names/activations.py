"""Keras' activations, from names, config dicts and callables."""

import reprlib
from collections.abc import Mapping
from typing import TypeAlias

from gruflax.functional.activations import Function, get_activation, named_activation


# What names an activation: see `identify`.
Identifier: TypeAlias = str | Mapping[str, object] | Function | None


def identify(identifier: Identifier, field: str = "activation") -> str | Function:
    """Returns one and the same value for every way to write the same activation.

    Args:
        identifier: a Keras name, a config dict, a callable, or None for linear.
        field: the argument's name, for errors.

    Returns:
        Keras' name; a callable that Keras has no name for is returned as it is.

    Raises:
        TypeError: `identifier` is none of these.
        ValueError: the name is unknown (the message lists the known ones), or the config is
            malformed or has arguments, which no activation takes.
    """
    if isinstance(identifier, Mapping):
        identifier = _name(identifier, field)
    return named_activation(identifier, field)


# Keras' configs hold the names, too.
serialize = identify


def get(identifier: Identifier, field: str = "activation") -> Function:
    """Returns the function of an array `[..., u]` of anything that `identify` takes."""
    return get_activation(identify(identifier, field))


def _name(config: Mapping[str, object], field: str) -> str:
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
