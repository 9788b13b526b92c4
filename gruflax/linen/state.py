"""The state that stateful layers keep between calls: a Flax variable collection."""

from collections.abc import Mapping

from flax import linen as nn, traverse_util

from gruflax.functional.checks import PyTree
from gruflax.layers.nesting import (
    State,
    cast_states,
    check_stateful,
    check_stored,
    owned_states,
    path_order,
    replaced_states,
)


COLLECTION = "recurrent_state"


def load_state(layer: nn.Module, own: State) -> State:
    """Reads the state that the last call stored, or None; `own` is the cell's own initial state.

    Raises a ValueError where the collection is not mutable, so that this call can store nothing.
    """
    if not layer.is_initializing() and not layer.is_mutable_collection(COLLECTION):
        raise ValueError(
            f"a stateful layer writes its state: call apply with mutable=[{COLLECTION!r}], and "
            f"lift {COLLECTION!r} in the transformation that the layer is in, if there is one."
        )
    if not layer.has_variable(COLLECTION, "h"):
        return None
    stored = layer.get_variable(COLLECTION, "h")
    check_stored(stored, own)
    return stored


def store_state(layer: nn.Module, state: State, own: State) -> None:
    """Stores a state for the next call; at init the cell's own state, in the dtypes of `state`."""
    if layer.is_initializing():
        state = cast_states(own, state)
    if layer.is_mutable_collection(COLLECTION):
        layer.put_variable(COLLECTION, "h", state)


def forget_states(variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Forgets the state of every stateful layer: the next call begins anew, with any batch size.

    Args:
        variables: the variables of a model.

    Returns:
        New variables without the collection "recurrent_state"; all others are as they were.
    """
    return {name: value for name, value in variables.items() if name != COLLECTION}


def reset_states(variables: dict[str, PyTree], states: State = None) -> dict[str, PyTree]:
    """Resets every stateful layer of a model: a pure function, fit for jit.

    Args:
        variables: the variables of a model, with the collection "recurrent_state".
        states: None for zeros, or an array `[..., u]` for each stateful layer, in any nesting, in
            the order of the layers' paths: `layers_2` before `layers_10`, the forward layer of a
            `Bidirectional` before its backward layer.

    Returns:
        New variables; all other collections are as they were.

    Raises:
        AttributeError: no layer of the model is stateful.
        ValueError: the number or the shapes of `states` differ from those stored.
    """
    if COLLECTION not in variables:
        raise AttributeError(
            f"Layer must be stateful: variables hold no {COLLECTION!r}, got {sorted(variables)}."
        )
    stored = dict(owned_states(variables[COLLECTION]))
    paths = sorted(stored, key=path_order)
    new = replaced_states([stored[path] for path in paths], states)
    new = traverse_util.unflatten_dict(dict(zip(paths, new, strict=True)))
    return {**variables, COLLECTION: new}


def reset_stored_state(layer: nn.Module, stateful: bool, states: State = None) -> None:
    """Resets the stored state of one layer, see `gruflax.GRU.reset_states`."""
    check_stateful(stateful)
    if not layer.has_variable(COLLECTION, "h"):
        raise ValueError(
            "a stateful layer needs to know its batch size: call init, or apply with "
            f"mutable=[{COLLECTION!r}], before reset_states."
        )
    if not layer.is_mutable_collection(COLLECTION):
        raise ValueError(f"reset_states writes {COLLECTION!r}: pass mutable=[{COLLECTION!r}].")
    (new,) = replaced_states([layer.get_variable(COLLECTION, "h")], states)
    layer.put_variable(COLLECTION, "h", new)
