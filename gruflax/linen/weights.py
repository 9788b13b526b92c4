"""What the GRU modules share about their weights: declaring them, their losses, their RNG."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from flax import linen as nn

from gruflax.functional.params import params_shapes
from gruflax.named.fields import axis_names, config_of, drops, initializer_of, option


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
        name: module.param(name, _boxing(module, name), shape, module.param_dtype)
        for name, shape in shapes.items()
    }
    sow_weight_losses(module, params)
    return params


def _boxing(module: nn.Module, name: str) -> Callable[..., Any]:
    """Returns what draws a parameter, boxed with its axis names where the module asks for it."""
    draw = initializer_of(module, name)
    if not getattr(module, "partitioned", False):
        return draw

    def draw_boxed(key, shape, dtype):
        value = draw(key, shape, dtype)
        # An initializer that was given names of its own keeps them.
        boxed = isinstance(value, nn.meta.AxisMetadata)
        return value if boxed else nn.LogicallyPartitioned(value, axis_names(name, len(shape)))

    return draw_boxed


def sow_weight_losses(module: nn.Module, params: Mapping[str, jax.Array]) -> None:
    """Sows the regularisation losses of a GRU's parameters into "losses", each once.

    Args:
        module: with the fields of a GRU; its losses are not sown at init.
        params: by name.
    """
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


def dropout_key(module: nn.Module, training: bool) -> jax.Array | None:
    """Finds the key of a call's dropout masks.

    Args:
        module: with some of the rates of a GRU, and maybe a `seed`.
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
    if not training or not drops(module):
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
