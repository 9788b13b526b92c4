"""What a loop's carry must share with what is computed from it: shardings and varying axes."""

from typing import Any

import jax
from jax.sharding import PartitionSpec


def sharded_like(state: jax.Array, inputs: jax.Array, batch: slice) -> jax.Array:
    """Spreads a state `[..., u]` over devices as the `batch` axes of the inputs are.

    Under a mesh of explicit axes shardings are part of the types.
    """
    sharding = jax.typeof(inputs).sharding
    if not sharding.mesh.are_all_axes_explicit:
        return state
    return jax.sharding.reshard(state, PartitionSpec(*sharding.spec[batch], None))


def vary_with(array: jax.Array, *others: Any) -> jax.Array:
    """Makes an array vary over the mesh axes that other pytrees of arrays vary over.

    Inside `jax.shard_map` zeros that are made there vary over nothing.
    """
    axes = {axis for leaf in jax.tree.leaves(others) for axis in varying_axes(leaf)}
    missing = tuple(sorted(axes - varying_axes(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def varying_axes(array: jax.Array) -> frozenset:
    """Returns the mesh axes that an array varies over, inside `jax.shard_map`."""
    return jax.typeof(array).manual_axis_type.varying
