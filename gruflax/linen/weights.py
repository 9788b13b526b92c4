"""What the GRU modules share about their weights: declaring them, their losses, their RNG."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gruflax.functional.checks import check_inputs
from gruflax.functional.params import check_params, params_shapes
from gruflax.layers.fields import AXES, axis_names, config_of, drops, initializer_of, option
from gruflax.linen.module import as_flag


def declare_params(
    module: nn.Module, name: str, inputs: Any, *, time_axis: int | None = None
) -> dict[str, jax.Array]:
    """Declares a GRU's parameters in a module, and sows their regularisation losses.

    Args:
        module: with the fields of a GRU, inside a compact method.
        name: of the inputs, for errors.
        inputs: `[..., f]`, or `[..., t, f]`.
        time_axis: of a sequence, 0 or -2; None for a step.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.

    Raises:
        TypeError: the inputs are token ids.
        ValueError: the inputs or what is in the variables are not of this GRU.
    """
    config, given = config_of(module), _given_params(module)
    features = None if given is None else check_params(given, config, module.units)[0]
    axes = {None: "...", 0: "time, ...", -2: "..., time"}[time_axis]
    check_inputs(name, inputs, features, axes, 1 if time_axis is None else 2)
    shapes = params_shapes(np.shape(inputs)[-1], module.units, config)
    params = {
        name: module.param(name, _boxing(module, name), shape, module.param_dtype)
        for name, shape in shapes.items()
    }
    sow_weight_losses(module, params)
    return params


def _given_params(module: nn.Module) -> dict[str, Any] | None:
    """What the variables hold for a GRU, before Flax asks for it; None where Flax will make it."""
    given = nn.unbox(module.variables.get("params", {}))
    if module.is_initializing() or (not given and module.is_mutable_collection("params")):
        return None
    # With none of a GRU's names, those of another library's are for the error to tell.
    return {name: given[name] for name in AXES if name in given} or dict(given)


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


_STEP: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at_step(index: jax.Array) -> Iterator[None]:
    """Tells the cells that are called meanwhile, however deep, which step of a loop this is."""
    token = _STEP.set(index)
    try:
        yield
    finally:
        _STEP.reset(token)


def step_key(key: jax.Array | None) -> jax.Array | None:
    """Returns a key of this step alone, of one that is the same at every step of a loop."""
    index = _STEP.get()
    return key if key is None or index is None else jax.random.fold_in(key, index)


def dropout_key(module: nn.Module, training: bool) -> jax.Array | None:
    """Finds the key of a call's dropout masks.

    Args:
        module: with some of the rates of a GRU, and maybe a `seed`.
        training: whether to drop anything.

    Returns:
        A key of the "dropout" stream; without that stream the key of `seed`, the same at every
        call; None where nothing is dropped.

    Raises:
        TypeError: `training` is traced, or no bool.
        ValueError: there is neither a stream nor a seed.
    """
    if not as_flag("training", training) or not drops(module):
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
