"""XLA's calls of the kernel, and how they are split over the devices that share a batch.

The kernel's operands are the arrays of a `Call` and, backwards, its outputs and their cotangents,
each where it lies; what is absent is left out, and an attribute says so. kernel/ffi.cc reads them
in the same order.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.loops.native.batches import WEIGHTS, array_axes, batch_axes
from gruflax.functional.loops.native.conditions import activation_number
from gruflax.functional.loops.native.library import BACKWARD, FORWARD
from gruflax.functional.sharding import vary_with, varying_axes


Arrays = dict[str, jax.Array]

# Bits of the attributes: which operands are there of those that may be absent, and which gradients
# are wanted.
_OPTIONAL = ("bias", "valid", "reset", "input_masks", "state_masks", "doutputs", "dstate")
_WANTED = ("inputs", "kernel", "initial_state", "reset_state")


def forward(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Computes `(outputs [..., t, u] or None, the last state [..., u])`, all in call's layout."""
    results = ("state", "outputs") if call.return_sequences else ("state",)
    found = _run(FORWARD, call, _operands(call), results, wanted=int(call.return_sequences))
    return found.get("outputs"), found["state"]


def backward(
    call: Call,
    outputs: jax.Array,
    doutputs: jax.Array | None,
    dstate: jax.Array | None,
    wanted: Sequence[str],
) -> Arrays:
    """Computes the gradients `wanted` by operands, of those whose cotangents are given."""
    operands = _operands(call)
    cotangents = {"outputs": outputs, "doutputs": doutputs, "dstate": dstate}
    operands |= {name: each for name, each in cotangents.items() if each is not None}
    # In the order of the kernel's results.
    results = [name for name in ("inputs", *WEIGHTS, "initial_state", "reset_state")]
    results = tuple(name for name in results if name in wanted and name in operands)
    return _run(BACKWARD, call, operands, results, wanted=_bits(_WANTED, wanted))


def _operands(call: Call) -> Arrays:
    params, masks = call.params, call.masks
    arrays = {
        "kernel": params["kernel"],
        "recurrent_kernel": params["recurrent_kernel"],
        "initial_state": call.initial_state,
        "inputs": call.inputs,
        "reset_state": call.reset_state,
        "bias": params.get("bias"),
        "valid": call.valid,
        "reset": call.reset,
        "input_masks": masks.inputs,
        "state_masks": masks.recurrent,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _bits(names: Sequence[str], chosen: Any) -> int:
    return sum(1 << index for index, name in enumerate(names) if name in chosen)


def _run(
    target: str, call: Call, operands: Arrays, results: tuple[str, ...], wanted: int
) -> Arrays:
    """Calls the kernel: `{result: array}`."""
    attributes = {
        "present": np.int64(_bits(_OPTIONAL, operands)),
        "wanted": np.int64(wanted),
        "time_major": call.time_major,
        "go_backwards": call.go_backwards,
        "reset_after": call.config.reset_after,
        "zero_output_for_mask": call.zero_output_for_mask,
        "activation": np.int32(activation_number(call.config.activation)),
        "recurrent_activation": np.int32(activation_number(call.config.recurrent_activation)),
    }
    form = target, tuple(operands), results, tuple(attributes.items())
    # What a device has of a `jax.shard_map` is its part already.
    whole = varying_axes(call.inputs)
    run = _whole(*form) if whole else _partitioned(*form, batch_axes(call), call.time_major)
    return dict(zip(results, run(*operands.values()), strict=True))


def _whole(
    target: str, names: tuple[str, ...], results: tuple[str, ...], attributes: tuple[Any, ...]
) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes the kernel's call of a form."""

    def run(*operands):
        given = dict(zip(names, operands, strict=True))
        inputs, state = given["inputs"], given["initial_state"]
        shapes = {name: array.shape for name, array in given.items()}
        shapes |= {"state": state.shape, "outputs": (*inputs.shape[:-1], state.shape[-1])}
        types = [jax.ShapeDtypeStruct(shapes[name], inputs.dtype) for name in results]
        found = jax.ffi.ffi_call(target, types)(*operands, **dict(attributes))
        return tuple(vary_with(each, inputs) for each in found)

    return run


@functools.lru_cache(maxsize=256)
def _partitioned(
    target: str,
    names: tuple[str, ...],
    results: tuple[str, ...],
    attributes: tuple[Any, ...],
    batch: tuple[str, ...],
    time_major: bool,
) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes the kernel's call of a form that every device runs on its part of the batch.

    Weights and time are whole on every device; the gradients of the weights are added up.
    """

    run = _whole(target, names, results, attributes)
    reset_after = dict(attributes)["reset_after"]
    axes = {name: array_axes(name, batch, time_major, reset_after) for name in (*names, *results)}

    def partition(mesh, operands, _):
        inputs = operands[names.index("inputs")]
        over = {
            axis: devices
            for axis, devices, size in zip(
                axes["inputs"], inputs.sharding.spec, inputs.shape, strict=False
            )
            # Uneven parts are padded with rows that would count in the gradients of the weights.
            if axis in batch and size % _count(mesh, devices) == 0
        }
        used = tuple(jax.tree.leaves(list(over.values())))

        def sharding(name):
            return NamedSharding(mesh, PartitionSpec(*map(over.get, axes[name])))

        def local(*operands):
            found = zip(results, run(*operands), strict=True)
            return tuple(
                lax.psum(array, used) if used and name in WEIGHTS else array
                for name, array in found
            )

        return mesh, local, tuple(map(sharding, results)), tuple(map(sharding, names))

    rule = (", ".join(" ".join(axes[name]) for name in each) for each in (names, results))
    every = dict.fromkeys(axis for each in axes.values() for axis in each)
    call = custom_partitioning(run)
    call.def_partition(
        partition=partition,
        sharding_rule=" -> ".join(rule),
        need_replication_factors=tuple(axis for axis in every if axis not in batch),
    )
    return call


def _count(mesh: jax.sharding.Mesh, devices: Any) -> int:
    """Returns over how many devices an axis of a spec goes."""
    return math.prod(mesh.shape[name] for name in jax.tree.leaves(devices))
