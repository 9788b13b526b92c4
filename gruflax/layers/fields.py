"""The fields of a GRU under Keras' names: what every module system makes of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from gruflax.functional.checks import brief, check_flags
from gruflax.functional.config import RATES, GRUConfig
from gruflax.functional.params import check_size, draw_param
from gruflax.keras_names import activations, constraints, initializers, regularizers
from gruflax.layers.protocols import GRULike


Identifier = str | Mapping[str, Any] | Callable[..., Any] | None

# Keras names a parameter `recurrent_kernel` and its options `recurrent_initializer`, ...
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}

# What the axes of each parameter are; gates are columns z | r | h.
AXES = {
    "kernel": ("features", "gates"),
    "recurrent_kernel": ("units", "gates"),
    "bias": (None, "gates"),
    "initial_state": ("units",),
}

# What Keras' GRU does not have, nor the layers of TensorFlow 1.
VARIANTS = ("recurrent_weight_dropout", "zoneout", "learn_initial_state")

# The fields that are True or False, of any layer or cell.
FLAGS = (
    "use_bias",
    "reset_after",
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
    "time_major",
    "remat",
    "learn_initial_state",
    "partitioned",
    "deterministic",
)

KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def option(module: object, parameter: str, kind: str):
    """Looks up an option of one parameter, such as the constraint of `recurrent_kernel`."""
    if parameter not in ROLES:
        return None
    field = f"{ROLES[parameter]}_{kind}"
    return KINDS[kind].get(getattr(module, field), field)


def initializer_of(module: object, parameter: str) -> Callable[..., Any]:
    """Looks up what draws one parameter: `f(key, shape, dtype)`."""
    # None is what Keras' `add_weight` makes of it.
    default = "zeros" if parameter == "initial_state" else "glorot_uniform"
    initializer = option(module, parameter, "initializer") or initializers.get(default)
    return functools.partial(draw_param, parameter, initializer)


def axis_names(parameter: str, rank: int) -> tuple[str | None, ...]:
    """Returns the logical axis names of one parameter.

    Rows and columns have names of their own so that a mesh axis can be given to the rows alone: a
    shard of rows has all columns of all gates. Equal shards of the 3u columns do not fit the gates,
    of u columns each: a gate's boundary falls inside a shard, or (three shards) what a unit's gates
    need lies on different ones.
    """
    return AXES[parameter][-rank:]


def config_of(module: GRULike) -> GRUConfig:
    """Returns the static description of a module with the fields of a GRU."""
    return GRUConfig(
        activation=activations.identify(module.activation),
        recurrent_activation=activations.identify(
            module.recurrent_activation, "recurrent_activation"
        ),
        use_bias=module.use_bias,
        reset_after=module.reset_after,
        dropout=module.dropout,
        recurrent_dropout=module.recurrent_dropout,
        implementation=module.implementation,
        **{name: getattr(module, name) for name in VARIANTS if hasattr(module, name)},
    )


def drops(module: object) -> bool:
    """Returns whether a module with some of a GRU's rates draws anything at random in training."""
    return any(getattr(module, rate, 0) for rate in RATES)


def check_layer_fields(layer: Any) -> None:
    """Checks what any layer over a sequence has; names its `activity_regularizer`."""
    check_flags(**{name: getattr(layer, name) for name in FLAGS if hasattr(layer, name)})
    if hasattr(layer, "activity_regularizer"):
        found = regularizers.identify(layer.activity_regularizer, "activity_regularizer")
        layer.activity_regularizer = found


def settle_fields(module: GRULike) -> None:
    """Checks a GRU's fields, and gives names to what Keras has a name for."""
    check_layer_fields(module)
    check_size("units", module.units)
    for field in ("activation", "recurrent_activation"):
        setattr(module, field, activations.identify(getattr(module, field), field))
    for role in ROLES.values():
        for kind, known in KINDS.items():
            field = f"{role}_{kind}"
            setattr(module, field, known.identify(getattr(module, field), field))
    config = config_of(module)
    if module.implementation == 0:
        module.implementation = config.implementation
    for field in ("dtype", "param_dtype"):
        _check_dtype(field, getattr(module, field, None))
    if getattr(module, "stateful", False):
        refuse_learned_state(module)
    seed = getattr(module, "seed", None)
    if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__")):
        raise TypeError(f"seed must be an integer or None, got {brief(seed)}.")


def refuse_learned_state(cell: object) -> None:
    """Raises a ValueError where a stateful layer's cell, or one of its cells, learns a state."""
    if getattr(cell, "learn_initial_state", False):
        raise ValueError(
            "learn_initial_state must be False where stateful=True: a stateful layer begins with "
            "the state that it stored, got both."
        )
    for each in getattr(cell, "cells", ()):
        refuse_learned_state(each)


def _check_dtype(field: str, dtype: DTypeLike | None) -> None:
    if dtype is None:
        return
    try:
        known = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"{field} must be a floating dtype, got {brief(dtype)}.")


USE_CUDNN = ("auto", True, False)


def loop_for(use_cudnn: bool | str, loop: str) -> str:
    """Translates Keras' `use_cudnn`: True asks for cuDNN, "auto" and False leave it to `loop`."""
    if use_cudnn not in USE_CUDNN:
        raise ValueError(f"use_cudnn must be one of {USE_CUDNN}, got {use_cudnn!r}.")
    return "cudnn" if use_cudnn is True else loop
