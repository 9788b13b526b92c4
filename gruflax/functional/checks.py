"""Checks of arrays at call time, with errors that name the argument."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike, DTypeLike


def compute_dtype(
    dtype: DTypeLike | None, params: Mapping[str, ArrayLike], inputs: ArrayLike
) -> jnp.dtype:
    """Chooses the dtype to compute in.

    Args:
        dtype: what the caller asks for, or None.
        params: a GRU's parameters.
        inputs: its inputs; integers and booleans follow the parameters.

    Returns:
        `dtype`, or the promoted dtype of `params` and `inputs`.

    Raises:
        TypeError: the result is not a floating dtype.
    """
    if dtype is None:
        dtypes = [jnp.result_type(value) for value in (*params.values(), inputs)]
        dtype = dtypes[0]
        # The choice of a dtype is explicit here, whatever arithmetic is allowed to promote.
        with jax.numpy_dtype_promotion("standard"):
            for other in dtypes[1:]:
                dtype = jnp.promote_types(dtype, other)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating dtype, got {dtype}.")
    return dtype


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns float32 for 16-bit floats, any other dtype as it is."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def check_state(
    name: str, state: ArrayLike | None, batch_shape: tuple[int, ...], units: int, dtype: DTypeLike
) -> jax.Array:
    """Casts a state and checks its shape.

    Args:
        name: the argument's name, for the error.
        state: `[..., u]`; None is zeros.
        batch_shape: the batch axes of the inputs.
        units: size of the state.
        dtype: the compute dtype.

    Returns:
        `[..., u]` in `dtype`.

    Raises:
        ValueError: another shape.
    """
    if state is None:
        return jnp.zeros((*batch_shape, units), dtype)
    state = jnp.asarray(state)
    if state.shape != (*batch_shape, units):
        raise ValueError(f"{name} must have shape {(*batch_shape, units)}, got {state.shape}.")
    return state.astype(dtype)


def sharded_like(state: jax.Array, inputs: jax.Array) -> jax.Array:
    """Spreads a state over devices as the batch is, where shardings are part of the types.

    Under a mesh of explicit axes a loop's carry must have the type of what is computed from it.

    Args:
        state: `[..., u]`.
        inputs: `[t, ..., f]`.

    Returns:
        The same state.
    """
    sharding = jax.typeof(inputs).sharding
    if not sharding.mesh.are_all_axes_explicit:
        return state
    return jax.sharding.reshard(state, PartitionSpec(*sharding.spec[1:-1], None))


def vary_with(array: jax.Array, *others: Any) -> jax.Array:
    """Makes an array vary over the mesh axes that others vary over.

    Inside `jax.shard_map` a loop's carry must have the type of what is computed from it, and zeros
    made there vary over nothing.

    Args:
        array: of any shape.
        *others: pytrees of arrays.

    Returns:
        The same array.
    """
    axes = {axis for leaf in jax.tree.leaves(others) for axis in _varying(leaf)}
    missing = tuple(sorted(axes - _varying(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _varying(array: jax.Array) -> frozenset:
    return jax.typeof(array).manual_axis_type.varying
