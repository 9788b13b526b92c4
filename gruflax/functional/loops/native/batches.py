"""The axes of a call's arrays, and its `jax.vmap`: a mapped axis becomes one more batch axis."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gruflax.functional.call import Call


WEIGHTS = ("kernel", "recurrent_kernel", "bias")
MAPPED = ("inputs", "valid", "reset", "initial_state", "reset_state", "masks")


def batch_axes(call: Call) -> tuple[str, ...]:
    """Names the batch axes of a call."""
    return tuple(f"batch_{axis}" for axis in range(call.initial_state.ndim - 1))


def array_axes(
    name: str, batch: tuple[str, ...], time_major: bool, reset_after: bool = True
) -> tuple[str, ...]:
    """Names the axes of a call's array or result; arrays share "time" and the names of `batch`."""
    steps = ("time", *batch) if time_major else (*batch, "time")
    first, last = f"{name}_first", f"{name}_last"
    if name == "bias" and not reset_after:
        return (last,)
    if name in WEIGHTS:
        return first, last
    if name.endswith("state"):
        return *batch, last
    if name.endswith("masks"):
        return first, *batch, last
    return steps if name in ("valid", "reset") else (*steps, last)


def axes_of(mapped: Any) -> Any:
    """Turns booleans into the axes that `jax.vmap` takes: 0 where mapped."""
    return jax.tree.map(lambda each: 0 if each else None, mapped)


def folded(call: Call, mapped: Call, size: int) -> Call:
    """Makes a call of many with the same parameters, mapped over axis 0 where `mapped` says so."""
    parts, mapped_parts = (
        {name: getattr(each, name) for name in MAPPED} for each in (call, mapped)
    )
    return dataclasses.replace(call, **folded_parts(call, parts, mapped_parts, size))


def folded_parts(call: Call, parts: Any, mapped: Any, size: int) -> dict[str, Any]:
    """Does the same for some fields of a call, or what is like them."""
    return {
        name: jax.tree.map(
            lambda array, each, name=name: _fold(array, each, size, _axis(call, name)),
            parts[name],
            mapped[name],
        )
        for name in parts
    }


def unfolded(call: Call, outputs: jax.Array | None, state: jax.Array) -> tuple[Any, jax.Array]:
    """Gives the mapped axis of outputs its place, the first."""
    if outputs is not None:
        outputs = jnp.moveaxis(outputs, _axis(call, "inputs"), 0)
    return outputs, state


def _axis(call: Call, name: str) -> int:
    """Returns where an array has its first batch axis."""
    return array_axes(name, ("mapped",), call.time_major).index("mapped")


def _fold(array: jax.Array, mapped: bool, size: int, axis: int) -> jax.Array:
    if mapped:
        return jnp.moveaxis(array, 0, axis)
    shape = (*array.shape[:axis], size, *array.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(array, axis), shape)
