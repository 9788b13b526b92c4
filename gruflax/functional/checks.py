"""Checks of arguments when a function is called; each error names the argument."""

import reprlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


# Dictionaries, tuples and dataclasses of arrays, as `jax.tree` walks them.
PyTree: TypeAlias = Any


def brief(value: Any) -> str:
    """Describes any value on one short line, for an error message."""
    if isinstance(value, jax.core.Tracer):
        return "a traced value"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {value.dtype}{list(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str, bytes, type)):
        return reprlib.repr(value)
    if isinstance(value, (tuple, list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name}" if isinstance(name, str) else type(value).__name__


def check_flags(**flags: object) -> None:
    """Raises a TypeError that names the flag unless each is True or False."""
    for name, value in flags.items():
        if isinstance(value, jax.core.Tracer):
            raise TypeError(f"{name} must be a Python bool, static under jit, got a traced value.")
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be a Python bool, True or False, got {brief(value)}.")


def known_values(array: ArrayLike) -> np.ndarray | None:
    """Returns an array's values; None if it is traced, or partly on other hosts."""
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)


def check_inputs(name: str, inputs: Any, features: int | None, axes: str, rank: int) -> jax.Array:
    """Returns inputs as an array, or raises an error unless they have the number of features."""
    wanted = f"({axes}, {'features' if features is None else features})"
    array = inputs if hasattr(inputs, "shape") and hasattr(inputs, "dtype") else _as_numpy(inputs)
    kinds = (jnp.number, jnp.bool_)
    if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be an array {wanted} of numbers, got {brief(inputs)}.")
    shape, dtype = array.shape, array.dtype
    if len(shape) == rank and jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"{name} must be {wanted} floats, got {dtype} {shape}: token ids need an embedding "
            "before the GRU, such as flax.linen.Embed; numbers without a batch axis need a cast."
        )
    if len(shape) < rank or features not in (None, shape[-1]):
        hint = "" if features is None else f": the kernel has {features} rows, one per feature"
        raise ValueError(f"{name} must have shape {wanted}, got {shape}{hint}.")
    return jnp.asarray(array)


def _as_numpy(given: object) -> np.ndarray | None:
    """Returns nested lists of numbers as an array; None if they do not form one."""
    try:
        return np.asarray(given)
    except ValueError:
        return None


def are_numbers(values: object) -> bool:
    """Returns whether values are a list of numbers, maybe nested, and so stand for an array."""
    leaves = jax.tree.leaves(values) if isinstance(values, (tuple, list)) else []
    return bool(leaves) and all(isinstance(leaf, (int, float)) for leaf in leaves)


def check_key(name: str, key: object, *, optional: bool = True) -> None:
    """Raises a TypeError unless `key` is a JAX random key, typed or of uint32, or None."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    absent = optional and key is None
    if not absent and not typed and dtype != jnp.uint32:
        raise TypeError(
            f"{name} must be a JAX random key, such as jax.random.key(0), got {brief(key)}."
        )


def compute_dtype(
    dtype: DTypeLike | None, params: Mapping[str, ArrayLike], inputs: ArrayLike
) -> jnp.dtype:
    """Returns the dtype to compute in: the given one, else the promoted one of all arrays."""
    if dtype is None:
        dtypes = [jnp.result_type(value) for value in (*params.values(), inputs)]
        dtype = dtypes[0]
        # The user may have restricted promotion in arithmetic; this choice is documented.
        with jax.numpy_dtype_promotion("standard"):
            for other in dtypes[1:]:
                dtype = jnp.promote_types(dtype, other)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating dtype, got {dtype}.")
    return dtype


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns float32 for 16-bit floats, any other dtype as it is."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def check_reset(reset: object, reset_state: object) -> None:
    """Raises a ValueError if there is a `reset_state` but no `reset`."""
    if reset is None and reset_state is not None:
        raise ValueError("reset_state must come with reset, which says where, got no reset.")


def check_state(
    name: str, state: ArrayLike | None, batch_shape: tuple[int, ...], units: int, dtype: DTypeLike
) -> jax.Array:
    """Checks the shape of a state and casts it; None gives zeros."""
    if state is None:
        return jnp.zeros((*batch_shape, units), dtype)
    wanted = (*batch_shape, units)
    if are_numbers(state) and _as_numpy(state) is not None:
        state = np.asarray(state)
    if isinstance(state, (str, Mapping)) or not jax.tree_util.all_leaves([state]):
        raise TypeError(f"{name} must be an array {wanted}, got {brief(state)}.")
    state = jnp.asarray(state)
    if state.shape != wanted:
        hint = ""
        if name == "state" and state.shape == (*batch_shape[:-1], units):
            hint = ": inputs of a step have no time axis; gru_sequence, GRU and RNN take sequences"
        raise ValueError(f"{name} must have shape {wanted}, got {state.shape}{hint}.")
    return state.astype(dtype)
