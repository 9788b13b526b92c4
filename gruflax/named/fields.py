"""The fields of a GRU under Keras' names: what every module system makes of them."""

from collections.abc import Callable, Mapping
from typing import Any

from gruflax.functional.config import RATES, GRUConfig
from gruflax.functional.params import check_size
from gruflax.named import activations, constraints, initializers, regularizers


Identifier = str | Mapping[str, Any] | Callable[..., Any] | None

# Keras names a parameter `recurrent_kernel` and its options `recurrent_initializer`, ...
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}

# What the axes of each parameter are; gates are columns z | r | h.
_AXES = {
    "kernel": ("features", "gates"),
    "recurrent_kernel": ("units", "gates"),
    "bias": (None, "gates"),
    "initial_state": ("units",),
}

# What Keras' GRU does not have, nor the layers of TensorFlow 1.
VARIANTS = ("recurrent_weight_dropout", "zoneout", "learn_initial_state")

KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def option(module: Any, parameter: str, kind: str):
    """Looks up an option of one parameter, such as the constraint of `recurrent_kernel`.

    Args:
        module: with the fields of a GRU.
        parameter: one of `ROLES`; any other has no options.
        kind: "initializer", "regularizer" or "constraint".

    Returns:
        A callable, or None.

    Raises:
        TypeError: the field holds something that is no identifier.
        ValueError: the field holds an unknown name.
    """
    if parameter not in ROLES:
        return None
    return KINDS[kind].get(getattr(module, f"{ROLES[parameter]}_{kind}"))


def initializer_of(module: Any, parameter: str) -> Callable[..., Any]:
    """Looks up what draws one parameter: `f(key, shape, dtype)`."""
    # None is what Keras' `add_weight` makes of it.
    default = "zeros" if parameter == "initial_state" else "glorot_uniform"
    return option(module, parameter, "initializer") or initializers.get(default)


def axis_names(parameter: str, rank: int) -> tuple[str | None, ...]:
    """Returns the logical axis names of one parameter.

    Rows and columns have names of their own so that a mesh axis can be given to the rows alone: a
    shard of rows has all columns of all gates. Equal shards of the 3u columns do not fit the gates,
    of u columns each: a gate's boundary falls inside a shard, or (three shards) what a unit's gates
    need lies on different ones.

    Args:
        parameter: "kernel", "recurrent_kernel", "bias" or "initial_state".
        rank: its number of axes.

    Returns:
        `("features", "gates")`, `("units", "gates")`, for a bias `(None, "gates")` or `("gates",)`,
        for an initial state `("units",)`.
    """
    return _AXES[parameter][-rank:]


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
        **{name: getattr(module, name) for name in VARIANTS if hasattr(module, name)},
    )


def drops(module: Any) -> bool:
    """Returns whether a module with some of a GRU's rates draws anything at random in training."""
    return any(getattr(module, rate, 0) for rate in RATES)


def check_fields(module: Any) -> None:
    """Raises a ValueError or TypeError that names the field unless a GRU's fields are valid."""
    check_size("units", module.units)
    config_of(module)
    for parameter in ROLES:
        for kind in KINDS:
            option(module, parameter, kind)
    if getattr(module, "stateful", False) and getattr(module, "learn_initial_state", False):
        raise ValueError(
            "learn_initial_state must be False where stateful=True: a stateful layer begins with "
            "the state that it stored, got both."
        )
    seed = getattr(module, "seed", None)
    if seed is not None and not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer or None, got {seed!r}.")
