"""Dropout masks, the same at every step of a sequence, and zoneout masks, new at every step.

Sources: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
Networks", arXiv:1512.05287, for inputs and states; Merity et al., arXiv:1708.02182, for weights;
Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
arXiv:1606.01305.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import brief
from gruflax.functional.config import GRUConfig, checked_rate
from gruflax.functional.params import GATES


class DropoutMasks(NamedTuple):
    """Factors for inputs, states and recurrent weights, each 0 or `1 / (1 - rate)`.

    Attributes:
        inputs: `[n, ..., f]`; n is 1 (one mask for all gates) or 3 (one per gate, z r h). None, the
            default, drops no inputs.
        recurrent: `[n, ..., u]`. None, the default, drops no states.
        recurrent_weights: `[u, 3u]`, for the recurrent kernel. None, the default, drops no weights.
    """

    inputs: jax.Array | None = None
    recurrent: jax.Array | None = None
    recurrent_weights: jax.Array | None = None


def dropout_mask(
    rng: jax.Array, rate: float, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws an inverted-dropout mask.

    Args:
        rng: JAX random key.
        rate: share of entries that become 0, in [0, 1]; 1 drops everything.
        shape: shape of the mask.
        dtype: dtype of the mask; float32 by default.

    Returns:
        An array of that shape with the values 0 and `1 / (1 - rate)`.

    Raises:
        TypeError: `rate` is no number.
        ValueError: `rate` is outside of [0, 1].
    """
    rate = checked_rate("rate", rate)
    keep = _draw(rng, rate, shape)
    scale = 1.0 / (1.0 - rate) if rate < 1.0 else 0.0
    return jnp.where(keep, jnp.asarray(scale, dtype), jnp.zeros((), dtype))


def _draw(rng: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Draws True where nothing is dropped. The rate is float32, to draw the same with x64."""
    return jax.random.bernoulli(rng, jnp.float32(1.0 - rate), shape)


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
        config: the options of the GRU, with its rates.
        dtype: dtype of the masks; float32 by default.

    Returns:
        `DropoutMasks` of inputs `[n, ..., f]`, states `[n, ..., u]` and recurrent weights
        `[u, 3u]`; a mask is None if its rate is 0, and all are None without `rng`.
    """
    if rng is None:
        return DropoutMasks()
    gates = (config.dropout_mask_count, *batch_shape)
    draws = (
        (config.dropout, (*gates, features)),
        (config.recurrent_dropout, (*gates, units)),
        (config.recurrent_weight_dropout, (units, GATES * units)),
    )
    return DropoutMasks(
        *(
            dropout_mask(jax.random.fold_in(rng, index), rate, shape, dtype) if rate else None
            for index, (rate, shape) in enumerate(draws)
        )
    )


def draw_zoneout(
    rng: jax.Array | None, config: GRUConfig, shape: tuple[int, ...]
) -> tuple[jax.Array | None, GRUConfig]:
    """Draws a zoneout mask of a given `shape`, True where a unit takes its new state.

    Returns the mask, or None if there is nothing to draw, and the config that goes with it: with a
    mask the zoneout of the config is 0.
    """
    if rng is None or not config.zoneout:
        return None, config
    key = jax.random.fold_in(rng, len(DropoutMasks._fields))
    zoneout_mask = _draw(key, config.zoneout, shape)
    return zoneout_mask, dataclasses.replace(config, zoneout=0.0)


def split_masks(masks: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    """Splits the recurrent dropout masks into those of z and r and that of the candidate."""
    return (None, None) if masks is None else (masks[:2], masks[-1:])


def drop_weights(
    params: Mapping[str, jax.Array], masks: DropoutMasks
) -> tuple[Mapping[str, jax.Array], DropoutMasks]:
    """Applies the mask of recurrent weights; the masks that are left have none."""
    if masks.recurrent_weights is None:
        return params, masks
    kernel = params["recurrent_kernel"] * masks.recurrent_weights
    return {**params, "recurrent_kernel": kernel}, masks._replace(recurrent_weights=None)


def resolve_dropout_masks(
    masks: DropoutMasks | None,
    rng: jax.Array | None,
    batch_shape: tuple[int, ...],
    features: int,
    units: int,
    config: GRUConfig,
    dtype: DTypeLike,
) -> DropoutMasks:
    """Draws the masks of one call, or checks and casts those that the caller gave."""
    if masks is None:
        return draw_dropout_masks(rng, batch_shape, features, units, config, dtype)
    if not isinstance(masks, DropoutMasks):
        raise TypeError(f"dropout_masks must be a gruflax.DropoutMasks, got {brief(masks)}.")
    inputs, recurrent = (*batch_shape, features), (*batch_shape, units)
    weights = (units, GATES * units)
    return DropoutMasks(
        _checked_mask("inputs", masks.inputs, ((1, *inputs), (3, *inputs)), dtype),
        _checked_mask("recurrent", masks.recurrent, ((1, *recurrent), (3, *recurrent)), dtype),
        _checked_mask("recurrent_weights", masks.recurrent_weights, (weights,), dtype),
    )


def _checked_mask(
    name: str, mask: ArrayLike | None, shapes: tuple[tuple[int, ...], ...], dtype: DTypeLike
) -> jax.Array | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"dropout_masks.{name} must have shape {wanted}, got {mask.shape}.")
    return mask.astype(dtype)
