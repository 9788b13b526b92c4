"""The states of a cell, nested as Keras, Flax or the user nests them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gruflax.layers.protocols import State


def single_state(name: str, states: State) -> State:
    """Takes the one state of a GRU out of a tuple or list; leaves anything else as it is."""
    if not isinstance(states, (tuple, list)):
        return states
    if len(states) != 1:
        raise ValueError(f"{name} must be one state for a GRU, got {len(states)}.")
    return states[0]


def nested_like(states: State, state: jax.Array) -> State:
    """Returns the one state of a GRU nested as `states` were given."""
    return type(states)([state]) if isinstance(states, (tuple, list)) else state


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


_REMEDY = "a stateful layer keeps its batch size until forget_states"


def check_stored(stored: State, zeros: State) -> None:
    """Raises a ValueError unless the state that a stateful layer keeps fits the inputs' shapes."""
    check_states(stored, zeros, "the stored state", _REMEDY)


def fitted_states(name: str, given: State, wanted: State) -> State:
    """Fits states into a cell's nesting: Keras puts the one state of a cell into a list."""
    check_states(given, wanted, name)
    leaves, treedef = jax.tree.flatten(wanted)
    new = [
        jnp.asarray(value).astype(leaf.dtype)
        for value, leaf in zip(jax.tree.leaves(given), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, new)


def replaced_states(stored: State, states: State) -> State:
    """Returns `stored` with new values: zeros, or those of `states`."""
    if states is None:
        return jax.tree.map(jnp.zeros_like, stored)
    paths, treedef = jax.tree_util.tree_flatten_with_path(stored)
    # JAX sorts the keys of a dict as text, "layers_10" before "layers_2".
    order = sorted(range(len(paths)), key=lambda index: path_order(paths[index][0]))
    leaves = [paths[index][1] for index in order]
    check_states(states, leaves, "states", _REMEDY)
    new = dict(zip(order, fitted_states("states", states, leaves), strict=True))
    return jax.tree.unflatten(treedef, [new[index] for index in range(len(paths))])


def path_order(path: tuple[Any, ...]) -> list[tuple[str, int]]:
    """Returns a key that sorts paths by text and numbers, `layers_2` before `layers_10`."""
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    parts = re.split(r"(\d+)", text)
    return [("", int(part)) if part.isdecimal() else (part, 0) for part in parts]


def beginnings(
    stored: State, fresh: State, initial_state: State, reset: Any, reset_state: State
) -> dict[str, Any]:
    """Returns what a stateful layer's call begins with, and what a reset in it goes back to.

    `stored` is what the last call left behind, `fresh` the cell's own initial state.
    """
    if initial_state is None:
        initial_state = stored
        if reset is not None and reset_state is None:
            # What the last call left behind is no beginning for a reset to go back to.
            reset_state = fresh
    return {"initial_state": initial_state, "reset": reset, "reset_state": reset_state}
