"""Variables to and from the linen layers, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta

from gruflax.layers.states import owned_states
from gruflax.nnx.state import RecurrentState, store_state


# The collections of linen, and the types of Variables that are the same thing in NNX.
_COLLECTIONS = {"params": nnx.Param, "recurrent_state": RecurrentState}


def to_linen(module: nnx.Module) -> dict[str, Any]:
    """Returns a layer's variables as the linen layer of the same arguments has them, bit by bit.

        gru = gruflax.nnx.GRU(4, 8, rngs=nnx.Rngs(0))
        outputs = gruflax.GRU(8).apply(gruflax.nnx.to_linen(gru), inputs)

    Args:
        module: a `gruflax.nnx` layer or cell.

    Returns:
        `{"params": ...}`, and "recurrent_state" where a state is stored.
    """
    collections = {name: _tree(module, kind) for name, kind in _COLLECTIONS.items()}
    return {name: tree for name, tree in collections.items() if tree}


def from_linen(module: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Sets a layer's variables to those of the linen layer of the same arguments, bit by bit.

        variables = gruflax.GRU(8).init(key, inputs)
        gru = gruflax.nnx.GRU(4, 8, rngs=nnx.Rngs(0))
        gruflax.nnx.from_linen(gru, variables)

    Args:
        module: a `gruflax.nnx` layer or cell; changed in place.
        variables: "params", and "recurrent_state" where a state is to be set.

    Raises:
        ValueError: names or shapes are not those of the module, or it keeps no such state.
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


def _tree(module: nnx.Module, kind: type[nnx.Variable]) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(module, kind))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(str(entry.key) for entry in path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
