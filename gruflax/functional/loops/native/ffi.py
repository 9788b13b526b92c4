"""Calls of the kernel by XLA, and how they are split over the devices that share a batch.

The kernel's operands are the arrays of a `Call` and, backwards, also its outputs, its gates and
their cotangents; none of them is copied. An attribute says for each possible array whether it is
absent, shared by all members, or different for each member. kernel/ffi.cc has the same order.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.checks import at_least_float32
from gruflax.functional.loops.native.axes import MEMBER, WEIGHTS, array_axes, batch_axes
from gruflax.functional.loops.native.conditions import activation_number
from gruflax.functional.loops.native.library import BACKWARD, FORWARD
from gruflax.functional.loops.thresholds import KEPT_GATES
from gruflax.functional.sharding import sum_over, vary_with


Arrays = dict[str, jax.Array]

_CALL = (
    *("kernel", "recurrent_kernel", "bias", "inputs", "initial_state", "reset_state"),
    *("valid", "reset", "inputs_masks", "recurrent_masks"),
)
_OPERANDS = {FORWARD: _CALL, BACKWARD: (*_CALL, "outputs", "gates", "doutputs", "dstate")}
_RESULTS = {
    FORWARD: ("state", "outputs", "gates"),
    BACKWARD: (*WEIGHTS, "inputs", "initial_state", "reset_state"),
}
# The values of that attribute, as in kernel/ffi.cc.
_ABSENT, _SHARED, _EACH = range(3)


def run_kernel(
    target: str,
    call: Call,
    operands: Arrays,
    each: Mapping[str, bool],
    types: Mapping[str, jax.ShapeDtypeStruct],
    local: bool,
) -> Arrays:
    """Calls the kernel for results `{name: type}`; returns `{name: result}` in the call's layout.

    `each` tells which operands have an axis of members; if any has one, all results have one.
    16-bit floats are computed in float32, and the results rounded. With `local`, the operands are
    already the parts of one device.
    """
    names = [name for name in _OPERANDS[target] if name in operands]
    results = [name for name in _RESULTS[target] if name in types]
    has_members = any(each[name] for name in names)
    config = call.config
    signature = _Signature(
        target,
        tuple((name, _EACH if each[name] else _SHARED) for name in names),
        tuple((name, _EACH if has_members else _SHARED) for name in results),
        batch_axes(call),
        (
            ("time_major", call.time_major),
            ("go_backwards", call.go_backwards),
            ("reset_after", config.reset_after),
            ("zero_output_for_mask", call.zero_output_for_mask),
            ("activation", np.int32(activation_number(config.activation))),
            ("recurrent_activation", np.int32(activation_number(config.recurrent_activation))),
        ),
    )
    arrays = [_widened(operands[name]) for name in names]
    run = signature.run if local else _partitioned(signature)
    found = zip(results, run(*arrays), strict=True)
    return {name: array.astype(types[name].dtype) for name, array in found}


def _widened(array: jax.Array) -> jax.Array:
    return array if array.dtype == bool else array.astype(at_least_float32(array.dtype))


class _Signature(NamedTuple):
    """The static part of a call of the kernel."""

    target: str
    operands: tuple[tuple[str, int], ...]
    results: tuple[tuple[str, int], ...]
    batch: tuple[str, ...]
    attributes: tuple[tuple[str, bool | np.int32], ...]

    def axes(self, name: str, presence: int) -> tuple[str, ...]:
        """Names the axes of an array."""
        static = dict(self.attributes)
        time_major, reset_after = bool(static["time_major"]), bool(static["reset_after"])
        axes = array_axes(name, self.batch, time_major, reset_after)
        return (MEMBER, *axes) if presence == _EACH else axes

    def run(self, *operands: jax.Array) -> tuple[jax.Array, ...]:
        """Calls the kernel with the parts of one device."""
        given = zip(self.operands, operands, strict=True)
        sizes = {
            axis: size
            for (name, presence), array in given
            for axis, size in zip(self.axes(name, presence), array.shape, strict=True)
        }
        # These axes belong to results only, so that no operand has told their sizes.
        units = sizes["recurrent_kernel_first"]
        sizes |= {"state_last": units, "outputs_last": units, "gates_last": KEPT_GATES * units}
        dtype = operands[0].dtype
        types = [
            jax.ShapeDtypeStruct([sizes[axis] for axis in self.axes(*result)], dtype)
            for result in self.results
        ]
        attributes = {
            "members": np.int64(sizes.get(MEMBER, 1)),
            "operands": _presences(_OPERANDS[self.target], self.operands),
            "results": _presences(_RESULTS[self.target], self.results),
            **dict(self.attributes),
        }
        found = jax.ffi.ffi_call(self.target, types)(*operands, **attributes)
        return tuple(vary_with(array, operands) for array in found)


def _presences(names: tuple[str, ...], there: tuple[tuple[str, int], ...]) -> np.ndarray:
    found = dict(there)
    return np.array([found.get(name, _ABSENT) for name in names], np.int32)


@functools.lru_cache(maxsize=256)
def _partitioned(signature: _Signature) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes a call of the kernel that each device runs on its part of the batch and the members.

    Each device has all steps of its rows and all of the shared weights. The gradients of these
    weights are added up over the devices.
    """
    sides = signature.operands, signature.results
    operands, results = ([signature.axes(*each) for each in side] for side in sides)
    split = (MEMBER, *signature.batch)

    def partition(mesh, arrays, _):
        # XLA has chosen the shardings of the operands. Members and batch axes keep theirs; all
        # other axes are gathered, because the kernel needs them complete.
        over, used = {}, set()
        for axes, array in zip(operands, arrays, strict=True):
            for axis, devices, size in zip(axes, _spec(array, mesh), array.shape, strict=False):
                # XLA would pad uneven parts with rows, which would add to the gradients of weights.
                even = size % math.prod(mesh.shape[name] for name in devices) == 0
                # The first operand that has an axis decides for all.
                free = axis in split and axis not in over and used.isdisjoint(devices)
                if devices and free and even:
                    over[axis] = devices
                    used.update(devices)
        summed = tuple(name for axis in signature.batch for name in over.get(axis, ()))

        def sharding(axes):
            return NamedSharding(mesh, PartitionSpec(*(over.get(axis) or None for axis in axes)))

        def local(*parts):
            return tuple(
                sum_over(array, summed if name in WEIGHTS else ())
                for (name, _), array in zip(signature.results, signature.run(*parts), strict=True)
            )

        return mesh, local, tuple(map(sharding, results)), tuple(map(sharding, operands))

    every = dict.fromkeys(axis for axes in (*operands, *results) for axis in axes)
    rule = (", ".join(map(" ".join, side)) for side in (operands, results))
    call = custom_partitioning(signature.run)
    call.def_partition(
        partition=partition,
        sharding_rule=" -> ".join(rule),
        decode_shardings=False,
        need_replication_factors=tuple(axis for axis in every if axis not in split),
    )
    return call


def _spec(array: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> tuple[tuple[str, ...], ...]:
    """Finds the mesh axes that each axis of an array is sharded over, empty if there is no answer.

    JAX's own search fails if a part of a mesh axis is shared by devices, which happens after a
    batch was reshaped. This one tries all assignments of mesh axes to array axes.
    """
    dimensions = range(array.ndim)
    for order in itertools.permutations(mesh.axis_names):
        for places in itertools.product((None, *dimensions), repeat=len(order)):
            pairs = list(zip(order, places, strict=True))
            spec = tuple(
                tuple(name for name, place in pairs if place == axis) for axis in dimensions
            )
            found = NamedSharding(mesh, PartitionSpec(*(each or None for each in spec)))
            if found.is_equivalent_to(array.sharding, array.ndim):
                return spec
    return ((),) * array.ndim
