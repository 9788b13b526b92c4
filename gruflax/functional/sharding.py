"""What a loop's carry must share with what is computed from it: shardings and varying axes."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def explicit_sharding(array: jax.Array) -> NamedSharding | None:
    """Returns how an array lies on a mesh of explicit axes, where that is part of its type."""
    sharding = jax.typeof(array).sharding
    return sharding if sharding.mesh.are_all_axes_explicit else None


def sharded_like(array: jax.Array, like: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Spreads the first axes of an array over devices as these `axes` of another one are."""
    sharding = explicit_sharding(like)
    if sharding is None:
        return array
    spec = PartitionSpec(*(sharding.spec[axis] for axis in axes))
    # The mesh is said: the other one may lie on a mesh that is not set.
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))


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
