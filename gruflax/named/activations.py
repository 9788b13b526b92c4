"""Keras' activations, from names, config dicts and callables."""

from collections.abc import Mapping
from typing import Any

from gruflax.functional.activations import ACTIVATIONS, Function, get_activation


def get(identifier: Any) -> Function:
    """Looks up an activation.

    Args:
        identifier: a Keras name, a config dict, a callable, or None for linear.

    Returns:
        A function from `[..., u]` to `[..., u]`.

    Raises:
        TypeError: `identifier` is none of these.
        ValueError: the name is unknown; the message lists the known ones.
    """
    if isinstance(identifier, Mapping):
        # Keras 3 writes a function as class "function" with its name as the config.
        name = identifier.get("class_name")
        identifier = identifier.get("config") if name == "function" else name
    return get_activation(identifier)


def serialize(identifier: Any) -> Any:
    """Returns an activation's Keras name; a callable that Keras does not know as it is."""
    function = get(identifier)
    names = (name for name, known in ACTIVATIONS.items() if known is function)
    return next(names, function)
