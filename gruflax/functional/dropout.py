"""Dropout masks that stay the same at every step of a sequence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.config import GRUConfig


class DropoutMasks(NamedTuple):
    """What inputs and states are multiplied by: 0, or one over the keep rate.

    Attributes:
        inputs: `[n, ..., f]`, or None for no input dropout; n is 1 (one mask for all gates) or 3
            (one a gate, z r h).
        recurrent: `[n, ..., u]`, or None for no recurrent dropout.
    """

    inputs: jax.Array | None = None
    recurrent: jax.Array | None = None


def dropout_mask(
    rng: jax.Array, rate: float, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws an inverted-dropout mask.

    Args:
        rng: JAX random key, consumed.
        rate: share of entries that become 0, in [0, 1]; 1 drops everything.
        shape: of the mask.
        dtype: of the mask.

    Returns:
        An array of 0 and `1 / (1 - rate)`.
    """
    keep = jax.random.bernoulli(rng, 1.0 - rate, shape)
    scale = 1.0 / (1.0 - rate) if rate < 1.0 else 0.0
    return jnp.where(keep, jnp.asarray(scale, dtype), jnp.zeros((), dtype))


def draw_dropout_masks(
    rng: jax.Array | None,
    batch_shape: tuple[int, ...],
    features: int,
    units: int,
    config: GRUConfig,
    dtype: DTypeLike = jnp.float32,
) -> DropoutMasks:
    """Draws the masks of one call: they depend on the key and the shapes only.

    Args:
        rng: JAX random key, or None for inference.
        batch_shape: leading axes of an input step.
        features: size of an input step.
        units: size of the state.
        config: the GRU, with its rates.
        dtype: of the masks.

    Returns:
        Masks of inputs `[n, ..., f]` and states `[n, ..., u]`; None where nothing is dropped.

    Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", arXiv:1512.05287.
    """
    if rng is None:
        return DropoutMasks()
    keys = jax.random.split(rng)
    rates = (config.dropout, config.recurrent_dropout)
    return DropoutMasks(
        *(
            dropout_mask(key, rate, (config.gate_masks, *batch_shape, size), dtype)
            if rate
            else None
            for key, rate, size in zip(keys, rates, (features, units), strict=True)
        )
    )


def resolve_dropout_masks(
    masks: DropoutMasks | None,
    rng: jax.Array | None,
    batch_shape: tuple[int, ...],
    features: int,
    units: int,
    config: GRUConfig,
    dtype: DTypeLike,
) -> DropoutMasks:
    """Draws the masks of one call, or casts and checks those that were injected.

    Args:
        masks: inputs `[n, ..., f]` and recurrent `[n, ..., u]`, n 1 or 3, either None; or None to
            draw them.
        rng: JAX random key, or None for inference.
        batch_shape: leading axes of an input step.
        features: size of an input step.
        units: size of the state.
        config: the GRU.
        dtype: the compute dtype.

    Returns:
        The masks in `dtype`.

    Raises:
        ValueError: an injected mask has another shape.
    """
    if masks is None:
        return draw_dropout_masks(rng, batch_shape, features, units, config, dtype)
    inputs, recurrent = masks
    return DropoutMasks(
        _checked_mask("inputs", inputs, (*batch_shape, features), dtype),
        _checked_mask("recurrent", recurrent, (*batch_shape, units), dtype),
    )


def _checked_mask(
    name: str, mask: ArrayLike | None, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape not in ((1, *shape), (3, *shape)):
        raise ValueError(
            f"dropout_masks.{name} must have shape {(1, *shape)} or {(3, *shape)}, "
            f"got {mask.shape}."
        )
    return mask.astype(dtype)
