"""The state that stateful layers keep between calls: a Variable of its own type."""

from typing import Any

from flax import nnx

from gruflax.layers.protocols import State
from gruflax.layers.states import check_stored, path_order, replaced_states


class RecurrentState(nnx.Variable):
    """What a stateful layer begins its next call with: `[..., u]`, or a pytree of such states."""


def load_state(layer: Any, own: State) -> State:
    """Reads what the last call left behind; `own` is the cell's own initial state."""
    if not hasattr(layer, "h"):
        return None
    stored = layer.h.get_value()
    check_stored(stored, own)
    return stored


def store_state(layer: Any, state: State) -> None:
    """Keeps a state in the attribute `h`, for the next call."""
    if hasattr(layer, "h"):
        layer.h.set_value(state)
    else:
        layer.h = RecurrentState(state)


def _is_stateful(module: nnx.Module) -> bool:
    """Returns whether a module is a stateful layer, and not one of a user's with such a name."""
    return bool(vars(module).get("stateful")) and hasattr(module, "init_state")


def forget_states(module: nnx.Module) -> None:
    """Forgets the state of every stateful layer, in place: the next call has any batch size.

    Args:
        module: with stateful layers anywhere in it.
    """
    for _, layer in nnx.iter_modules(module):
        if _is_stateful(layer) and hasattr(layer, "h"):
            del layer.h


def reset_states(module: nnx.Module, states: State = None) -> None:
    """Resets every stateful layer of a model, in place.

    Args:
        module: with stateful layers anywhere in it.
        states: None for zeros, or an array `[..., u]` for each stateful layer, in any nesting, in
            the order of the layers' paths: `layers_2` before `layers_10`, the forward layer of a
            `Bidirectional` before its backward layer.

    Raises:
        AttributeError: no layer of the module is stateful.
        ValueError: a layer knows no batch size yet; another number of states, or other shapes.
    """
    layers: list[tuple[Any, Any]] = [
        (path, layer) for path, layer in nnx.iter_modules(module) if _is_stateful(layer)
    ]
    layers.sort(key=lambda pair: path_order(pair[0]))
    if not layers:
        raise AttributeError(f"Layer must be stateful, got none in {type(module).__name__}.")
    for path, layer in layers:
        if not hasattr(layer, "h"):
            raise ValueError(
                f"the stateful layer at {path} needs to know its batch size: call it, or its "
                "init_state, before reset_states."
            )
    stored = [layer.h.get_value() for _, layer in layers]
    for (_, layer), state in zip(layers, replaced_states(stored, states), strict=True):
        store_state(layer, state)
