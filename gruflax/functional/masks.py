"""Which steps count: boolean masks and sequence lengths."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def lengths_to_mask(seq_lengths: ArrayLike, time: int) -> jax.Array:
    """Marks the first `seq_lengths` steps of each sequence.

    Args:
        seq_lengths: `[...]` integers, valid steps a sequence.
        time: number of steps.

    Returns:
        `[..., t]` boolean, True where the step counts.

    Raises:
        TypeError: `seq_lengths` are not integers.
    """
    lengths = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be integers, got {lengths.dtype}.")
    steps = jnp.arange(time, dtype=lengths.dtype).reshape((1,) * lengths.ndim + (time,))
    return steps < lengths[..., None]


def mask_to_lengths(mask: ArrayLike) -> jax.Array:
    """Counts the valid steps of right-padded sequences: the inverse of `lengths_to_mask`.

    Args:
        mask: `[..., t]`, True (or non-zero) where the step counts; right-padded.

    Returns:
        `[...]` int32.

    Raises:
        ValueError: the mask's values are known (not traced) and a valid step follows an invalid
            one, so that lengths cannot describe it.
    """
    valid = jnp.asarray(mask).astype(bool)
    if not isinstance(valid, jax.core.Tracer):
        values = np.asarray(valid)
        if (values[..., 1:] & ~values[..., :-1]).any():
            raise ValueError("mask must be right-padded to be told by lengths, got gaps.")
    return valid.sum(axis=-1, dtype=jnp.int32)


def steps_to_mask(
    name: str, steps: ArrayLike | None, batch_shape: tuple[int, ...], time: int, time_major: bool
) -> jax.Array | None:
    """Brings a boolean array over the steps to time-major form.

    Args:
        name: the argument's name, for errors.
        steps: `[..., t]` or `[..., t, 1]`, time first with `time_major`; any dtype, non-zero is
            True; batch axes of size 1 are broadcast. Or None.
        batch_shape: the batch axes of the inputs.
        time: number of steps.
        time_major: whether time comes first.

    Returns:
        `[t, ...]` boolean, or None.

    Raises:
        ValueError: another shape.
    """
    if steps is None:
        return None
    steps = jnp.asarray(steps).astype(bool)
    wanted = (time, *batch_shape) if time_major else (*batch_shape, time)
    given = steps.shape
    if steps.ndim == len(wanted) + 1 and given[-1] == 1:
        steps = steps[..., 0]
    if not time_major and steps.ndim:
        steps = jnp.moveaxis(steps, -1, 0)
    full = (time, *batch_shape)
    fits = steps.ndim == len(full) and steps.shape[0] == time
    if not fits or any(
        size not in (1, whole) for size, whole in zip(steps.shape, full, strict=True)
    ):
        raise ValueError(f"{name} must have shape {wanted} or {(*wanted, 1)}, got {given}.")
    return jnp.broadcast_to(steps, full)


def valid_steps(
    mask: ArrayLike | None,
    seq_lengths: ArrayLike | None,
    batch_shape: tuple[int, ...],
    time: int,
    time_major: bool = False,
) -> jax.Array | None:
    """Combines a mask and sequence lengths: a step counts where both say so.

    Args:
        mask: `[..., t]` or `[..., t, 1]` (time first with `time_major`), or None.
        seq_lengths: `[...]` integers, or None.
        batch_shape: the batch axes of the inputs.
        time: number of steps.
        time_major: whether time comes first in `mask`.

    Returns:
        `[t, ...]` boolean, True where the step counts; None where every step does.

    Raises:
        TypeError: `seq_lengths` are not integers.
        ValueError: a wrong shape.
    """
    valid = steps_to_mask("mask", mask, batch_shape, time, time_major)
    if seq_lengths is None:
        return valid
    lengths = jnp.asarray(seq_lengths)
    if lengths.shape != batch_shape:
        raise ValueError(f"seq_lengths must have shape {batch_shape}, got {lengths.shape}.")
    within = jnp.moveaxis(lengths_to_mask(lengths, time), -1, 0)
    return within if valid is None else valid & within
