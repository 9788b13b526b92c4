"""Checks and conversions of cell states, which Keras, Flax and users nest in different ways."""

import re
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gruflax.functional.checks import PyTree, are_numbers


# What a cell carries from step to step: an array `[..., u]`, or any pytree of arrays.
State = PyTree


def single_state(name: str, states: State) -> State:
    """Takes the single state of a GRU out of a tuple or list; returns an array unchanged."""
    if not _is_nested(states):
        return states
    if len(states) != 1:
        raise ValueError(f"{name} must be one state for a GRU, got {len(states)}.")
    return states[0]


def nested_like(states: State, state: jax.Array) -> State:
    """Returns the one state of a GRU nested as `states` were given."""
    return type(states)([state]) if _is_nested(states) else state


def _is_nested(states: State) -> bool:
    return isinstance(states, (tuple, list)) and not are_numbers(states)


def as_tuple(state: State) -> tuple:
    """Returns a cell's state as a tuple of states."""
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def check_states(given: State, wanted: State, name: str, remedy: str = "") -> None:
    """Raises a ValueError unless two pytrees hold equally many arrays of equal shapes."""
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (given, wanted)]
    if len(shapes[0]) != len(shapes[1]):
        raise ValueError(f"{name} must be {len(shapes[1])} arrays, got {len(shapes[0])}.")
    if shapes[0] != shapes[1]:
        hint = f" ({remedy})" if remedy else ""
        raise ValueError(f"{name} must have shapes {shapes[1]}, got {shapes[0]}{hint}.")


def check_stateful(stateful: bool) -> None:
    """Raises an AttributeError unless a layer keeps a state."""
    if not stateful:
        raise AttributeError(f"Layer must be stateful, got stateful={stateful}.")


_REMEDY = "a stateful layer keeps its batch size until forget_states"


def check_stored(stored: State, zeros: State) -> None:
    """Raises a ValueError unless a stored state has the shapes of the zeros for the inputs."""
    check_states(stored, zeros, "the stored state", _REMEDY)


def fitted_states(name: str, given: State, wanted: State, remedy: str = "") -> State:
    """Checks the shapes of states, and nests them like `wanted`."""
    check_states(given, wanted, name, remedy)
    return jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(given))


def cast_states(states: State, like: State) -> State:
    """Casts states to the dtypes of `like`, which has the same nesting."""
    return jax.tree.map(lambda one, other: jnp.asarray(one).astype(other.dtype), states, like)


def replaced_states(stored: list[State], states: State) -> list[State]:
    """Returns new values for the stored state of each layer: zeros, or those of `states`."""
    if states is None:
        return jax.tree.map(jnp.zeros_like, stored)
    return cast_states(fitted_states("states", states, stored, _REMEDY), stored)


def owned_states(
    tree: Mapping[str, State], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yields the path of each stored state, `(..., "h")`, and the state, which may be a pytree."""
    for name, value in tree.items():
        if name == "h" or not isinstance(value, Mapping):
            yield (*path, name), value
        else:
            yield from owned_states(value, (*path, name))


def path_order(path: tuple[object, ...]) -> list[list[tuple[str, int]]]:
    """Returns a key that sorts the paths of layers as the layers run.

    Numbers count as numbers, `layers_2` before `layers_10`, and `forward_layer` comes before
    `backward_layer`.
    """
    names = ("forward_layer, then" if name == "backward_layer" else str(name) for name in path)
    parts = (re.split(r"(\d+)", name) for name in names)
    return [[("", int(part)) if part.isdecimal() else (part, 0) for part in each] for each in parts]
