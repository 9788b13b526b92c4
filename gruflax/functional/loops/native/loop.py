"""The loop that is a C++ kernel on CPUs, and the chunked loop on other platforms.

Which of the two is decided where a program is lowered, so that one that is traced on a CPU runs on
a GPU, and one that is exported runs where there is no kernel (`primitives`, `operations`).

Memory: all threads share the packed weights; each has the gates of a chunk, at most 192 steps of
all its rows together; and each part of the rows, at most 64, the sums of the weights' gradients.
Under differentiation there are the gates of all steps besides, four times the outputs, where they
take less than 64 MiB and `remat` is not set.

16-bit floats are computed in float32: the states are carried in it over all steps, and the results
are rounded.

Known limits: `conditions`; a batch that lies whole on every device of an explicit mesh takes the
chunked loop; where an activation has no derivative, that of one side is taken.
"""

import dataclasses

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.loops.chunked import chunked_loop
from gruflax.functional.loops.native.axes import array_axes, batch_axes
from gruflax.functional.loops.native.operations import states
from gruflax.functional.sharding import explicit_sharding, vary_with


_MAPPED = ("inputs", "valid", "reset", "initial_state", "reset_state", "masks")


def native_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call: `(outputs [..., t, u] or None, the last state [..., u])`."""
    sharding = explicit_sharding(call.inputs)
    if sharding is None:
        return _varying(call)
    # Where the types tell how the batch lies, each device runs its part.
    batch = batch_axes(call)
    lies = dict(zip(array_axes("inputs", batch, call.time_major), sharding.spec, strict=True))
    if all(lies[axis] is None for axis in batch):
        # Then an axis that jax.vmap maps may lie over the devices, where no shard_map can be.
        return chunked_loop(call)

    def spec(name):
        if name == "params":
            return PartitionSpec()
        axes = array_axes(name, batch, call.time_major)
        return PartitionSpec(*(lies[axis] if axis in batch else None for axis in axes))

    def placed(array, spec):
        return jax.sharding.reshard(array, NamedSharding(sharding.mesh, spec))

    specs = {
        name: jax.tree.map(lambda _, name=name: spec(name), getattr(call, name))
        for name in (*_MAPPED, "params")
    }
    specs = dataclasses.replace(call, **specs)
    results = spec("outputs") if call.return_sequences else None, spec("state")
    run = jax.shard_map(
        _varying,
        mesh=sharding.mesh,
        axis_names=set(sharding.mesh.explicit_axes),
        in_specs=(specs,),
        out_specs=results,
    )
    return run(jax.tree.map(placed, call, specs))


def _varying(call: Call) -> tuple[jax.Array | None, jax.Array]:
    # Inside `jax.shard_map` the kernel's operands must vary alike; the transpose adds up gradients.
    return states(jax.tree.map(lambda array: vary_with(array, call), call))
