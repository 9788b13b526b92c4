"""What the GRU modules share about their weights: declaring them, their losses, their RNG."""

import jax
import jax.core
import jax.numpy as jnp
from flax import linen as nn

from gruflax.functional.config import GRUConfig
from gruflax.functional.params import check_size, params_shapes
from gruflax.named import activations, constraints, initializers, regularizers


# Keras names a parameter `recurrent_kernel` and its options `recurrent_initializer`, ...
ROLES = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}

_KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def option(module: nn.Module, parameter: str, kind: str):
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
    return _KINDS[kind].get(getattr(module, f"{ROLES[parameter]}_{kind}"))


def config_of(module: nn.Module) -> GRUConfig:
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


def check_fields(module: nn.Module) -> None:
    """Raises a ValueError or TypeError that names the field unless a GRU's fields are valid."""
    check_size("units", module.units)
    config_of(module)
    for parameter in ROLES:
        for kind in _KINDS:
            option(module, parameter, kind)
    seed = getattr(module, "seed", None)
    if seed is not None and not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer or None, got {seed!r}.")


def declare_params(module: nn.Module, features: int) -> dict[str, jax.Array]:
    """Declares a GRU's parameters in a module, and sows their regularisation losses.

    Args:
        module: with the fields of a GRU, inside a compact method.
        features: size of an input step.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.
    """
    shapes = params_shapes(features, module.units, config_of(module))
    params = {
        name: module.param(
            name,
            # None is what Keras' `add_weight` makes of it.
            option(module, name, "initializer") or initializers.get("glorot_uniform"),
            shape,
            module.param_dtype,
        )
        for name, shape in shapes.items()
    }
    for name, value in params.items():
        regularizer = option(module, name, "regularizer")
        if regularizer is not None and not module.is_initializing():
            # A layer that is called twice still has each of its weights once.
            module.sow(
                "losses",
                name,
                regularizer(value),
                reduce_fn=lambda _, loss: loss,
                init_fn=lambda: jnp.zeros(()),
            )
    return params


def dropout_key(module: nn.Module, training: bool) -> jax.Array | None:
    """Finds the key of a call's dropout masks.

    Args:
        module: with `dropout`, `recurrent_dropout` and `seed`.
        training: whether to drop anything.

    Returns:
        A key of the "dropout" stream; without that stream the key of `seed`, the same at every
        call; None where nothing is dropped.

    Raises:
        TypeError: `training` is traced.
        ValueError: there is neither a stream nor a seed.
    """
    if isinstance(training, jax.core.Tracer):
        raise TypeError("training must be a Python bool, static under jit, got a traced value.")
    if not training or not (module.dropout or module.recurrent_dropout):
        return None
    if module.has_rng("dropout"):
        return module.make_rng("dropout")
    seed = getattr(module, "seed", None)
    if seed is not None:
        return jax.random.key(seed)
    if module.is_initializing():
        return None
    raise ValueError(
        "training with dropout needs a key: pass rngs={'dropout': key} to apply, or set seed."
    )
