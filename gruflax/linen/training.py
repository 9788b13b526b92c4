"""What training adds to a model: the losses that layers sow, and constraints on weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from gruflax.layers.fields import each_member
from gruflax.linen.module import Constraint, Path, noted_constraints


def collect_constraints(
    model: nn.Module, *args: Any, rngs: Mapping[str, jax.Array] | None = None, **kwargs: Any
) -> dict[Path, tuple[Constraint, int]]:
    """Finds the constrained weights of a model, without computing anything."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")}

    def init(arrays):
        args, kwargs = treedef.unflatten([arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return model.init(streams, *args, **kwargs)

    key = jax.random.key(0)
    streams = {"params": key, "dropout": key, **(rngs or {})}
    with noted_constraints() as found:
        jax.eval_shape(init, arrays)
    return found


def constraints(
    model: nn.Module, *args: Any, rngs: Mapping[str, jax.Array] | None = None, **kwargs: Any
) -> optax.GradientTransformation:
    """Makes the optimiser step that applies a model's weight constraints, as Keras' `fit` does.

    It belongs last in the chain: it turns each update into one that ends at the constrained weight.
    Weights of layers under `nn.vmap` or `nn.scan` are constrained one by one.

        optimizer = optax.chain(optax.adam(1e-3), gruflax.constraints(model, inputs))

    Args:
        model: an unbound Flax module with gruflax layers anywhere in it.
        *args: what `model` is called with: arrays or `jax.ShapeDtypeStruct`s; flags stay flags.
        rngs: streams that `model.init` needs besides "params" and "dropout".
        **kwargs: of the call, the same.

    Returns:
        A transformation of updates of `variables["params"]`.

    Raises:
        ValueError: at `init`, a constrained weight is not among the parameters; at `update`, no
            parameters are given.
    """
    found = collect_constraints(model, *args, rngs=rngs, **kwargs)

    def init(params):
        leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(params))
        paths = [_names(path) for path, _ in leaves]
        missing = sorted(set(found) - set(paths))
        if missing:
            raise ValueError(f"params must hold the constrained weights {missing}, got {paths}.")
        return optax.EmptyState()

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to update: constraints act on the weights.")

        def constrained(path, delta, weight):
            if _names(path) not in found:
                return delta
            constraint, rank = found[_names(path)]
            return each_member(constraint, weight.ndim - rank)(weight + delta) - weight

        weights, deltas = nn.unbox(params), nn.unbox(updates)
        deltas = jax.tree_util.tree_map_with_path(constrained, deltas, weights)
        return nn.meta.replace_boxed(updates, deltas), state

    return optax.GradientTransformation(init, update)


def _names(path: tuple[Any, ...]) -> Path:
    return tuple(str(getattr(entry, "key", entry)) for entry in path)


def total_loss(variables: Mapping[str, Any]) -> jax.Array:
    """Sums what layers sowed into the collection "losses", to be added to a training loss.

    Args:
        variables: as `model.apply(variables, x, mutable=["losses"])` returns them second.

    Returns:
        A scalar; 0 where nothing was sown.
    """
    leaves = jax.tree.leaves(variables.get("losses", {}))
    return sum((jnp.sum(leaf) for leaf in leaves), start=jnp.zeros(()))
