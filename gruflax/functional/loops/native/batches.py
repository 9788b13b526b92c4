"""`jax.vmap` of a call: a mapped axis becomes one more batch axis."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gruflax.functional.call import Call


_STEPS = ("inputs", "valid", "reset")


def axes_of(mapped: Any) -> Any:
    """Turns booleans into the axes that `jax.vmap` takes: 0 where mapped."""
    return jax.tree.map(lambda each: 0 if each else None, mapped)


def folded(call: Call, mapped: Call, size: int) -> Call:
    """Makes a call of many with the same parameters, mapped over axis 0 where `mapped` says so."""
    names = (*_STEPS, "initial_state", "reset_state", "masks")
    parts = {name: getattr(call, name) for name in names}
    mapped_parts = {name: getattr(mapped, name) for name in names}
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
    """Returns where a field has its first batch axis."""
    return int(name == "masks" or (call.time_major and name in (*_STEPS, "outputs")))


def _fold(array: jax.Array, mapped: bool, size: int, axis: int) -> jax.Array:
    if mapped:
        return jnp.moveaxis(array, 0, axis)
    shape = (*array.shape[:axis], size, *array.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(array, axis), shape)
