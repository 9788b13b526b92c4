"""The fields of a GRU under Keras' names: what every module system makes of them."""

from collections.abc import Callable, Mapping
from typing import Any

from gruflax.functional.config import GRUConfig
from gruflax.functional.params import check_size
from gruflax.named import activations, constraints, initializers, regularizers


Identifier = str | Mapping[str, Any] | Callable[..., Any] | None

# Keras names a parameter `recurrent_kernel` and its options `recurrent_initializer`, ...
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}

KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def option(module: Any, parameter: str, kind: str):
    """Looks up an option of one parameter, such as the constraint of `recurrent_kernel`.

    Args:
        module: with the fields of a GRU.
        parameter: "kernel", "recurrent_kernel" or "bias".
        kind: "initializer", "regularizer" or "constraint".

    Returns:
        A callable, or None.

    Raises:
        TypeError: the field holds something that is no identifier.
        ValueError: the field holds an unknown name.
    """
    return KINDS[kind].get(getattr(module, f"{ROLES[parameter]}_{kind}"))


def initializer_of(module: Any, parameter: str) -> Callable[..., Any]:
    """Looks up what draws one parameter: `f(key, shape, dtype)`."""
    # None is what Keras' `add_weight` makes of it.
    return option(module, parameter, "initializer") or initializers.get("glorot_uniform")


def config_of(module: Any) -> GRUConfig:
    """Returns the static description of a module with the fields of a GRU."""
    return GRUConfig(
        activation=activations.get(module.activation),
        recurrent_activation=activations.get(module.recurrent_activation),
        use_bias=module.use_bias,
        reset_after=module.reset_after,
        dropout=module.dropout,
        recurrent_dropout=module.recurrent_dropout,
        implementation=module.implementation,
    )


def check_fields(module: Any) -> None:
    """Raises a ValueError or TypeError that names the field unless a GRU's fields are valid."""
    check_size("units", module.units)
    config_of(module)
    for parameter in ROLES:
        for kind in KINDS:
            option(module, parameter, kind)
    seed = getattr(module, "seed", None)
    if seed is not None and not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer or None, got {seed!r}.")
