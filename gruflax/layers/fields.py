"""The fields of GRUs and layers, under Keras' names: lookups and checks for linen and for NNX."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from jax.typing import DTypeLike

from gruflax.functional.checks import brief, check_flags
from gruflax.functional.config import RATES, Activation, GRUConfig
from gruflax.functional.params import check_size, draw_param
from gruflax.keras_names import activations, constraints, initializers, regularizers


Identifier = str | Mapping[str, object] | Callable[..., Any] | None

# Keras names a parameter `recurrent_kernel` and its options `recurrent_initializer`, ...
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}

# The logical names of the axes of each parameter; the columns of "gates" are z | r | h.
AXES = {
    "kernel": ("features", "gates"),
    "recurrent_kernel": ("units", "gates"),
    "bias": (None, "gates"),
    "initial_state": ("units",),
}

# Options that neither Keras' GRU nor the layers of TensorFlow 1 have.
VARIANTS = ("recurrent_weight_dropout", "zoneout", "learn_initial_state")

# Fields that a layer passes to its loop unchanged.
LOOP_FIELDS = (
    "go_backwards",
    "time_major",
    "unroll",
    "return_sequences",
    "zero_output_for_mask",
)

_GRU_FLAGS = (
    "use_bias",
    "reset_after",
    "remat",
    "learn_initial_state",
    "partitioned",
    "deterministic",
)
_LAYER_FLAGS = (*LOOP_FIELDS, "return_state", "stateful")

KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


class GRULike(Protocol):
    """A cell or a layer with the fields of a GRU, of linen or of NNX."""

    units: int
    activation: Activation | Mapping[str, object]
    recurrent_activation: Activation | Mapping[str, object]
    use_bias: bool
    reset_after: bool
    dropout: float
    recurrent_dropout: float
    implementation: int


class LayerLike(Protocol):
    """A cell over a sequence, of linen or of NNX."""

    return_sequences: bool
    return_state: bool
    go_backwards: bool
    stateful: bool
    activity_regularizer: Identifier
    time_major: bool


def option(module: object, parameter: str, kind: str):
    """Looks up an option of one parameter, such as the constraint of `recurrent_kernel`."""
    if parameter not in ROLES:
        return None
    field = f"{ROLES[parameter]}_{kind}"
    return KINDS[kind].get(getattr(module, field), field)


def initializer_of(module: object, parameter: str) -> Callable[..., jax.Array]:
    """Looks up the function that draws one parameter: `f(key, shape, dtype)`."""
    # Keras' `add_weight` makes "glorot_uniform" of None.
    default = "zeros" if parameter == "initial_state" else "glorot_uniform"
    initializer = option(module, parameter, "initializer") or initializers.get(default)
    return functools.partial(draw_param, parameter, initializer)


def axis_names(parameter: str, rank: int) -> tuple[str | None, ...]:
    """Returns the logical axis names of one parameter.

    Rows and columns have different names so that a mesh axis can shard the rows alone, where every
    shard has all columns of all gates. Equal shards of the 3u columns do not fit the three gates of
    u columns: the boundary of a gate lies inside a shard, or, with three shards, the gates of a
    unit lie on different shards.
    """
    return AXES[parameter][-rank:]


def config_of(module: GRULike) -> GRUConfig:
    """Returns the `GRUConfig` of a module that has the fields of a GRU."""
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


def is_random(module: object) -> bool:
    """Returns whether a module drops anything in training: whether any of its rates is not 0."""
    return any(getattr(module, rate, 0) for rate in RATES)


def settle_gru_fields(module: GRULike) -> None:
    """Checks a GRU's fields, and replaces objects that Keras has a name for by that name."""
    check_flags(**{name: getattr(module, name) for name in _GRU_FLAGS if hasattr(module, name)})
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
    seed = getattr(module, "seed", None)
    if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__")):
        raise TypeError(f"seed must be an integer or None, got {brief(seed)}.")


def settle_layer_fields(layer: LayerLike) -> None:
    """Checks the fields that every layer has, and names its `activity_regularizer`."""
    check_flags(**{name: getattr(layer, name) for name in _LAYER_FLAGS})
    layer.activity_regularizer = regularizers.identify(
        layer.activity_regularizer, "activity_regularizer"
    )
    if layer.stateful:
        _refuse_learned_state(getattr(layer, "cell", layer))


def _refuse_learned_state(module: Any) -> None:
    """Raises a ValueError where a layer, its cell, or one of its cells learns its initial state."""
    if getattr(module, "learn_initial_state", False):
        raise ValueError(
            "learn_initial_state must be False where stateful=True: a stateful layer begins with "
            "the state that it stored, got both."
        )
    for each in getattr(module, "cells", ()):
        _refuse_learned_state(each)


def _check_dtype(field: str, dtype: DTypeLike | None) -> None:
    if dtype is None:
        return
    try:
        known = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"{field} must be a floating dtype, got {brief(dtype)}.")


def loop_options(layer: object) -> dict[str, bool]:
    """Returns the fields that a layer passes to its loop unchanged."""
    return {name: getattr(layer, name) for name in LOOP_FIELDS}


USE_CUDNN = ("auto", True, False)


def resolve_loop(use_cudnn: bool | str, loop: str) -> str:
    """Translates Keras' `use_cudnn`: True asks for cuDNN, "auto" and False leave it to `loop`."""
    if use_cudnn not in USE_CUDNN:
        raise ValueError(f"use_cudnn must be one of {USE_CUDNN}, got {use_cudnn!r}.")
    return "cudnn" if use_cudnn is True else loop


def check_kind(
    name: str, module: object, fits: bool, wanted: str, system: type, remedy: str = ""
) -> None:
    """Raises a TypeError unless a layer or a cell `fits`; the message names a remedy.

    `system` is `nn.Module` or `nnx.Module`: the base class that the module should have.
    """
    if fits:
        return
    linen = system is nn.Module
    if isinstance(module, nnx.Module if linen else nn.Module):
        other = "an NNX module, for gruflax.nnx" if linen else "a linen module, for gruflax"
        remedy = f": this is {other}"
    elif isinstance(module, (nn.RNNCellBase, nnx.RNNCellBase)):
        remedy = f": run the cell by {'gruflax' if linen else 'gruflax.nnx'}.RNN"
    raise TypeError(f"{name} must be {wanted}, got {brief(module)}{remedy}.")
