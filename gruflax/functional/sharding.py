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
    axes = {axis for leaf in jax.tree.leaves(others) for axis in _varying(leaf)}
    missing = tuple(sorted(axes - _varying(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _varying(array: jax.Array) -> frozenset:
    return jax.typeof(array).manual_axis_type.varying
