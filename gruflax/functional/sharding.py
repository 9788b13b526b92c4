"""Arrays on meshes of devices: explicit shardings, and the axes that arrays vary over."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gruflax.functional.checks import PyTree


def explicit_sharding(array: jax.Array) -> Any:
    """Returns the sharding in an array's type if its mesh has explicit axes, else None."""
    sharding = jax.typeof(array).sharding
    return sharding if sharding.mesh.explicit_axes else None


def sharded_like(array: jax.Array, like: jax.Array, axes: Sequence[int | None]) -> jax.Array:
    """Shards the first axes of an array like the given `axes` of another array.

    An axis for which `axes` has None, or has nothing, is not sharded: every device has all of it.
    """
    sharding = explicit_sharding(like)
    if sharding is None:
        return array
    spec = PartitionSpec(*(None if axis is None else sharding.spec[axis] for axis in axes))
    # The sharding names the mesh, because an array can lie on a mesh that is not set.
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))


def mesh_of(inputs: Any) -> AbstractContextManager[object]:
    """Returns a context that sets the mesh of the inputs, if it has explicit axes and none is set.

    JAX can compute and transpose some operations only under a mesh. While a function is
    differentiated outside of `jax.jit` no mesh can be set; there JAX's own error asks the user to
    call `jax.set_mesh`.
    """
    sharding = explicit_sharding(inputs) if isinstance(inputs, jax.Array) else None
    if sharding is None or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    if isinstance(inputs, jax.core.Tracer):
        return jax.sharding.use_abstract_mesh(sharding.mesh)
    try:
        # Outside of tracing only the mesh of devices can be set, and that of the type is abstract.
        lies: Any = inputs.sharding
        return jax.set_mesh(lies.mesh)
    except ValueError:
        return contextlib.nullcontext()


def beside(weight: jax.Array, inputs: jax.Array) -> jax.Array:
    """Puts a weight on the mesh of the inputs so that every device has all of its columns.

    For a weight on no mesh JAX would not know the sharding of its gradient. Columns are not sharded
    because they are gates side by side, and shards would not end where gates end.
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
    """Runs a function on every device, on that device's parts of the arrays.

    For each result, `summed` has the mesh axes over which the devices' results are added up.
    """

    def on_each_device(*parts):
        # Inside `jax.shard_map` a loop's carry must vary over the same axes as what it adds.
        found = function(*(vary_with(part, parts) for part in parts))
        return [sum_over(array, axes) for array, axes in zip(found, summed, strict=True)]

    # A program may be lowered while no mesh or another one is set, so the arrays' own mesh is
    # set here.
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

    Zeros that are made inside `jax.shard_map` vary over no axis, but a loop's carry must vary over
    the same axes as the arrays that are combined with it.
    """
    axes = {axis for leaf in jax.tree.leaves(others) for axis in varying_axes(leaf)}
    missing = tuple(sorted(axes - varying_axes(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def varying_axes(array: jax.Array) -> frozenset:
    """Returns the mesh axes that an array varies over, inside `jax.shard_map`."""
    return jax.typeof(array).manual_axis_type.varying
