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
        ValueError: the name is unknown; the message lists the known ones. Or the config is
            malformed, or has arguments: no function here takes any.
    """
    if isinstance(identifier, Mapping):
        identifier = _name(identifier)
    return get_activation(identifier)


def serialize(identifier: Any) -> Any:
    """Returns an activation's Keras name; a callable that Keras does not know as it is."""
    function = get(identifier)
    names = (name for name, known in ACTIVATIONS.items() if known is function)
    return next(names, function)


def _name(config: Mapping[str, Any]) -> str:
    name, arguments = config.get("class_name"), config.get("config")
    if name == "function":
        # Keras 3 writes a function as class "function" with its name as the config.
        name, arguments = arguments, None
    if not isinstance(name, str):
        raise ValueError(f"activation config must name a function, got {dict(config)}.")
    if arguments:
        raise ValueError(f"config of activation {name} has unknown keys, got {arguments}.")
    return name
