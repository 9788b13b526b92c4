"""The states that stateful layers keep between calls, and variables to and from linen layers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta

from gruflax.functional.checks import PyTree
from gruflax.layers.nesting import (
    State,
    check_stored,
    owned_states,
    path_order,
    replaced_states,
)


class RecurrentState(nnx.Variable):
    """The stored state of a stateful layer: an array `[..., u]`, or a pytree of arrays."""


def load_state(layer: Any, own: State) -> State:
    """Reads the state that the last call stored, or None; `own` is the cell's own initial state."""
    if not hasattr(layer, "h"):
        return None
    stored = layer.h.get_value()
    check_stored(stored, own)
    return stored


def store_state(layer: Any, state: State) -> None:
    """Stores a state in the attribute `h`, for the next call."""
    if hasattr(layer, "h"):
        layer.h.set_value(state)
    else:
        layer.h = RecurrentState(state)


def _is_stateful(module: nnx.Module) -> bool:
    """Returns whether a module is a stateful layer; other modules may have the attribute too."""
    return bool(vars(module).get("stateful")) and hasattr(module, "init_state")


def forget_states(module: nnx.Module) -> None:
    """Forgets the state of every stateful layer, in place: the next call has any batch size.

    Args:
        module: a module that contains stateful layers.
    """
    for _, layer in nnx.iter_modules(module):
        if _is_stateful(layer) and hasattr(layer, "h"):
            del layer.h


def reset_states(module: nnx.Module, states: State = None) -> None:
    """Resets every stateful layer of a model, in place.

    Args:
        module: a module that contains stateful layers.
        states: None for zeros, or an array `[..., u]` for each stateful layer, in any nesting, in
            the order of the layers' paths: `layers_2` before `layers_10`, the forward layer of a
            `Bidirectional` before its backward layer.

    Raises:
        AttributeError: no layer of the module is stateful.
        ValueError: a layer knows no batch size yet; another number of states, or other shapes.
    """
    layers: list[tuple[tuple[object, ...], Any]] = [
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


# The collections of linen, and the corresponding types of Variables in NNX.
_COLLECTIONS = {"params": nnx.Param, "recurrent_state": RecurrentState}


def to_linen_variables(module: nnx.Module) -> dict[str, PyTree]:
    """Returns a layer's variables in the form of the linen layer of the same arguments.

    For example::

        gru = gruflax.nnx.GRU(4, 8, rngs=nnx.Rngs(0))
        outputs = gruflax.GRU(8).apply(gruflax.nnx.to_linen_variables(gru), inputs)

    Args:
        module: a `gruflax.nnx` layer or cell.

    Returns:
        A dict `{"params": ...}`, with "recurrent_state" if a state is stored; the numbers are
        unchanged.
    """
    collections = {name: _tree(module, kind) for name, kind in _COLLECTIONS.items()}
    return {name: tree for name, tree in collections.items() if tree}


def from_linen_variables(module: nnx.Module, variables: Mapping[str, PyTree]) -> None:
    """Sets a layer's variables to those of the linen layer of the same arguments.

    For example::

        variables = gruflax.GRU(8).init(key, inputs)
        gru = gruflax.nnx.GRU(4, 8, rngs=nnx.Rngs(0))
        gruflax.nnx.from_linen_variables(gru, variables)

    Args:
        module: a `gruflax.nnx` layer or cell; changed in place.
        variables: `{"params": ...}`, with "recurrent_state" to set states too.

    Raises:
        ValueError: names or shapes differ from those of the module, or a layer is not stateful.
    """
    variables = meta.unbox(variables)
    given = _shapes(variables.get("params", {}))
    wanted = _shapes(_tree(module, nnx.Param))
    if given != wanted:
        raise ValueError(f"variables['params'] must be {wanted}, got {given}.")
    modules = dict(nnx.iter_modules(module))
    stored = owned_states(variables.get("recurrent_state", {}))
    states = [(path[:-1], state) for path, state in stored]
    for path, _ in states:
        if not getattr(modules.get(path), "stateful", False):
            raise ValueError(f"variables['recurrent_state'] has a state at {path}: not stateful.")
    for path, value in jax.tree_util.tree_leaves_with_path(variables["params"]):
        *owner, name = (entry.key for entry in path)
        getattr(modules[tuple(owner)], name).set_value(jnp.asarray(value))
    for path, state in states:
        store_state(modules[path], jax.tree.map(jnp.asarray, state))


def _tree(module: nnx.Module, kind: type[nnx.Variable]) -> dict[str, PyTree]:
    return nnx.to_pure_dict(nnx.state(module, kind))


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(str(entry.key) for entry in path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
