"""Boolean masks and sequence lengths, which say which steps count."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.checks import brief, known_values
from gruflax.functional.sharding import sharded_like


def lengths_to_mask(seq_lengths: ArrayLike, time: int) -> jax.Array:
    """Marks the first `seq_lengths` steps of each sequence.

    Args:
        seq_lengths: `[...]` integers in [0, time], the number of valid steps of each sequence.
            Traced ones, whose values are not known, are clipped to that range.
        time: number of steps.

    Returns:
        `[..., t]` boolean, True where the step counts.

    Raises:
        TypeError: `seq_lengths` are not integers.
        ValueError: a length whose value is known is negative or above `time`.
    """
    known = known_values(seq_lengths)
    dtype = jnp.result_type(seq_lengths) if known is None else known.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be integers, got {dtype}.")
    # A number of steps that is a symbol of jax.export cannot be compared.
    if known is not None and known.size and isinstance(time, int):
        least, most = int(known.min()), int(known.max())
        if least < 0 or most > time:
            raise ValueError(
                f"seq_lengths must lie between 0 and the {time} steps, got {least} to {most}."
            )
    lengths = jnp.asarray(seq_lengths)
    if lengths.dtype.itemsize < 4:
        # The number of steps may be more than a narrow integer holds.
        lengths = lengths.astype(jnp.int32)
    steps = jnp.arange(time, dtype=lengths.dtype).reshape((1,) * lengths.ndim + (time,))
    return steps < lengths[..., None]


def mask_to_lengths(mask: ArrayLike) -> jax.Array:
    """Counts the valid steps of right-padded sequences: the inverse of `lengths_to_mask`.

    Args:
        mask: `[..., t]`, True (or 1) where the step counts; right-padded.

    Returns:
        `[...]` int32, the number of valid steps of each sequence.

    Raises:
        TypeError: the dtype of the mask is none of bools, integers and floats.
        ValueError: the values are known (not traced) and are not 0 and 1, or a valid step follows
            an invalid one, so that lengths cannot describe the mask.
    """
    valid = as_booleans("mask", mask)
    values = known_values(valid)
    if values is not None and (values[..., 1:] & ~values[..., :-1]).any():
        raise ValueError("mask must be right-padded to be told by lengths, got gaps.")
    return valid.sum(axis=-1, dtype=jnp.int32)


def as_booleans(name: str, array: ArrayLike) -> jax.Array:
    """Converts integers or floats of 0 and 1 to bools, and checks their values."""
    known = known_values(array)
    dtype = jnp.result_type(array) if known is None else known.dtype
    if jnp.issubdtype(dtype, jnp.bool_):
        return jnp.asarray(array)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{name} must be bools, or numbers of 0 and 1, got {brief(array)}.")
    if known is not None and not ((known == 0) | (known == 1)).all():
        hint = "; of an additive mask take `mask == 0`" if name == "mask" else ""
        raise ValueError(
            f"{name} must be bools, or numbers of 0 and 1, got values from {known.min()} to "
            f"{known.max()}{hint}."
        )
    return jnp.asarray(array).astype(bool)


def steps_to_mask(
    name: str, steps: ArrayLike | None, batch_shape: tuple[int, ...], time: int, axis: int
) -> jax.Array | None:
    """Checks a mask over the steps and broadcasts it to the batch axes, with time at `axis`.

    `steps` may have one more axis of size 1 at the end, and batch axes of size 1. None stays None.
    """
    if steps is None:
        return None
    steps, wanted = as_booleans(name, steps), (*batch_shape[:axis], time, *batch_shape[axis:])
    given = steps.shape
    if steps.ndim == len(wanted) + 1 and given[-1] == 1:
        steps = steps[..., 0]
    fits = steps.ndim == len(wanted) and all(
        size == full or (size == 1 and index != axis)
        for index, (size, full) in enumerate(zip(steps.shape, wanted, strict=False))
    )
    if not fits:
        raise ValueError(f"{name} must have shape {wanted} or {(*wanted, 1)}, got {given}.")
    return jnp.broadcast_to(steps, wanted)


def combined_mask(
    mask: ArrayLike | None,
    seq_lengths: ArrayLike | None,
    batch_shape: tuple[int, ...],
    time: int,
    axis: int,
) -> jax.Array | None:
    """Combines a mask and lengths to one mask, with time at `axis`; None if there is neither."""
    valid = steps_to_mask("mask", mask, batch_shape, time, axis)
    if seq_lengths is None:
        return valid
    if np.shape(seq_lengths) != batch_shape:
        raise ValueError(f"seq_lengths must have shape {batch_shape}, got {np.shape(seq_lengths)}.")
    within = jnp.moveaxis(lengths_to_mask(seq_lengths, time), -1, axis)
    if valid is None:
        return within
    return valid & sharded_like(within, valid, range(valid.ndim))


def where_steps(condition: jax.Array, array: jax.Array, other: ArrayLike) -> jax.Array:
    """Selects whole steps by booleans `[...]` from `array` `[..., *]` and `other`."""
    condition = sharded_like(condition, array, range(condition.ndim))
    condition = jnp.expand_dims(condition, range(condition.ndim, array.ndim))
    return jnp.where(condition, array, jnp.asarray(other, array.dtype))
