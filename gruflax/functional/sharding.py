"""How arrays lie on meshes of devices: explicit shardings, parts, and axes they vary over."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gruflax.functional.checks import PyTree


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
    # A mesh need not be set for the other array to lie on it, so that the sharding has to name it.
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))


def mesh_of(inputs: Any) -> AbstractContextManager[object]:
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
        # The mesh of the array's type is abstract: only that of its devices can be set here.
        lies: Any = inputs.sharding
        return jax.set_mesh(lies.mesh)
    except ValueError:
        return contextlib.nullcontext()


def beside(weight: jax.Array, inputs: jax.Array) -> jax.Array:
    """Puts a weight on the mesh of the inputs, such that every device has all of its columns.

    JAX could not tell how the gradient of a weight on no mesh should lie. And the columns are gates
    side by side: shards of columns would not end where a gate ends.
    """
    if explicit_sharding(weight) is None:
        return sharded_like(weight, inputs, ())
    return sharded_like(weight, weight, range(weight.ndim - 1))


def run_in_parts(
    function: Callable[..., list[jax.Array]],
    arrays: Sequence[jax.Array],
    mesh: AbstractMesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: list[PartitionSpec],
    summed: Sequence[tuple[str, ...]],
) -> list[jax.Array]:
    """Runs a function of arrays on the part that each device has of them.

    `summed` names for each result the mesh axes over which the devices' results are added up.
    """

    def on_each_device(*parts):
        # Inside `jax.shard_map` a loop's carry must vary over the same axes as what it adds.
        found = function(*(vary_with(part, parts) for part in parts))
        return [sum_over(array, axes) for array, axes in zip(found, summed, strict=True)]

    # A program may be lowered when no mesh is set, or another one: the arrays' own counts.
    with jax.sharding.use_abstract_mesh(mesh):
        parts = map(jax.sharding.reshard, arrays, in_specs)
        return jax.shard_map(
            on_each_device,
            axis_names=set(mesh.explicit_axes),
            in_specs=in_specs,
            out_specs=out_specs,
        )(*parts)


def sum_over(array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Adds up an array over mesh axes, if any."""
    return jax.lax.psum(array, axes) if axes else array


def vary_with(array: jax.Array, *others: PyTree) -> jax.Array:
    """Makes an array vary over the mesh axes that other pytrees of arrays vary over.

    Inside `jax.shard_map` zeros that are made there vary over nothing.
    """
    axes = {axis for leaf in jax.tree.leaves(others) for axis in varying_axes(leaf)}
    missing = tuple(sorted(axes - varying_axes(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def varying_axes(array: jax.Array) -> frozenset:
    """Returns the mesh axes that an array varies over, inside `jax.shard_map`."""
    return jax.typeof(array).manual_axis_type.varying
