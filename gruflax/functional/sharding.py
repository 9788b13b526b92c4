"""What a loop's carry must share with what is computed from it: shardings and varying axes."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
from jax.sharding import NamedSharding, PartitionSpec


def explicit_sharding(array: jax.Array) -> Any:
    """Returns how an array lies on a mesh with explicit axes, where its type says so, or None."""
    sharding = jax.typeof(array).sharding
    return sharding if sharding.mesh.explicit_axes else None


def sharded_like(array: jax.Array, like: jax.Array, axes: Sequence[int | None]) -> jax.Array:
    """Spreads the first axes of an array over devices as these `axes` of another one are.

    Where one is None, and beyond them, every device has all of the array.
    """
    sharding = explicit_sharding(like)
    if sharding is None:
        return array
    spec = PartitionSpec(*(None if axis is None else sharding.spec[axis] for axis in axes))
    # The mesh is said: the other one may lie on a mesh that is not set.
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))


def mesh_of(inputs: Any) -> AbstractContextManager[Any]:
    """Sets the mesh of explicit axes that inputs lie on, where the caller has set none.

    JAX computes and transposes some operations only under a mesh. Where an untraced function is
    differentiated none can be set; JAX' own error asks for `jax.set_mesh` there.
    """
    sharding = explicit_sharding(inputs) if isinstance(inputs, jax.Array) else None
    if sharding is None or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    if isinstance(inputs, jax.core.Tracer):
        return jax.sharding.use_abstract_mesh(sharding.mesh)
    try:
        lies: Any = inputs.sharding
        return jax.set_mesh(lies.mesh)
    except ValueError:
        return contextlib.nullcontext()


def beside(weight: jax.Array, inputs: jax.Array) -> jax.Array:
    """Puts a weight on the mesh of the inputs, such that every device has all of its columns.

    JAX could not tell how the gradient of a weight on no mesh should lie, and gates are columns
    side by side, whose boundaries shards do not fit.
    """
    if explicit_sharding(weight) is None:
        return sharded_like(weight, inputs, ())
    return sharded_like(weight, weight, range(weight.ndim - 1))


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
