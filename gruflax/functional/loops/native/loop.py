"""The loop that is a C++ kernel on CPUs, and the chunked loop on other platforms.

Which of the two is decided where a program is lowered, so that one that is traced on a CPU runs on
a GPU. The kernel computes the states, and the gradients from the states alone; what joins the two
is one primitive, linear in the tangents of a call: its transpose is the kernel's backward pass, all
else of it is the chunked loop's tangent (`tangent`). So forward mode and derivatives of derivatives
are the chunked loop's.

Memory: all threads share the packed weights; each has the gates of a chunk, at most 192 steps of
all its rows together; and each part of the rows, at most 64, the sums of the weights' gradients.

Known limits: `conditions`; parameters that are vmapped, gradients of single examples, and gradients
of wide layers with few rows take the chunked loop, and so does a batch that lies whole on every
device of an explicit mesh; where an activation has no derivative, that of
one side is taken.
"""

import dataclasses
import functools

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.loops.chunked import chunked_loop, is_zero, made_zeros
from gruflax.functional.loops.native import calls
from gruflax.functional.loops.native.batches import (
    MAPPED,
    array_axes,
    axes_of,
    batch_axes,
    folded,
    unfolded,
)
from gruflax.functional.loops.native.conditions import gradients_run_well
from gruflax.functional.loops.native.tangent import tangent
from gruflax.functional.sharding import explicit_sharding, vary_with


States = tuple[jax.Array | None, jax.Array]
# What the kernel differentiates by.
_FIELDS = ("params", "inputs", "initial_state", "reset_state")


def native_loop(call: Call) -> States:
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
        for name in (*MAPPED, "params")
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


def _varying(call: Call) -> States:
    # Inside `jax.shard_map` the kernel's operands must vary alike; the transpose adds up gradients.
    return _differentiable(jax.tree.map(lambda array: vary_with(array, call), call))


# The states.


@custom_vmap
def _states(call: Call) -> States:
    return lax.platform_dependent(call, cpu=calls.forward, default=chunked_loop)


@_states.def_vmap
def _states_vmap(size, mapped, call):
    (mapped,) = mapped
    if any(jax.tree.leaves(mapped.params)):
        found = jax.vmap(chunked_loop, in_axes=(axes_of(mapped),))(call)
    else:
        found = unfolded(call, *_states(folded(call, mapped, size)))
    return found, jax.tree.map(lambda _: True, found)


@jax.custom_jvp
def _differentiable(call: Call) -> States:
    return _states(call)


@functools.partial(_differentiable.defjvp, symbolic_zeros=True)
def _differentiable_jvp(primals, tangents):
    (call,), (dcall,) = primals, tangents
    dparts = {name: getattr(dcall, name) for name in (*_FIELDS, "masks")}
    dparts = {
        name: made_zeros(each, getattr(call, name))
        for name, each in dparts.items()
        if not is_zero(each)
    }
    # Who injects dropout masks can differentiate by them; the kernel does not.
    if "masks" in dparts or not gradients_run_well(call):
        parts = {name: getattr(call, name) for name in dparts}
        return jax.jvp(
            lambda parts: chunked_loop(dataclasses.replace(call, **parts)), (parts,), (dparts,)
        )
    outputs, state = _differentiable(dataclasses.replace(call, return_sequences=True))
    assert outputs is not None
    doutputs, dstate = tangent(call, outputs, dparts)
    if not call.return_sequences:
        outputs = doutputs = None
    return (outputs, state), (doutputs, dstate)
