"""Regularisation losses and constraints on weights, for training linen models."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gruflax.functional.checks import PyTree
from gruflax.layers.fields import AXES, option
from gruflax.layers.members import StackedAxis, each_member, stacked_axes, sum_losses
from gruflax.linen.layer import Module


# The name of the copies of cells that are run outside of the model, only for the types of a step.
PROBE = "a copy that tells the types of a step"

Path = tuple[str, ...]
Constraint = Callable[[jax.Array], jax.Array]
# By path: the constraint of each weight of a GRU, None where it has none, and the weight's shape.
Notes = dict[Path, tuple[Constraint | None, tuple[int, ...]]]


def collect_constraints(
    model: nn.Module, *args: PyTree, rngs: Mapping[str, jax.Array] | None = None, **kwargs: PyTree
) -> Notes:
    """Finds the weights of a model's GRUs and their constraints, without computing anything."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")}
    notes: Notes = {}
    probes: list[nn.Module] = []

    def note(method, args, kwargs, context):
        module = context.module
        if module.name == PROBE:
            probes.append(module)
        try:
            result = method(*args, **kwargs)
        finally:
            inside = bool(probes)
            if module.name == PROBE:
                probes.pop()
        constrained = isinstance(module, Module) and hasattr(module, "kernel_constraint")
        if constrained and module.scope is not None and not inside:
            params = nn.unbox(module.variables.get("params", {}))
            for name in AXES.keys() & params.keys():
                # Within nn.vmap, the first call sees the weight of one member.
                found = option(module, name, "constraint"), np.shape(params[name])
                notes.setdefault((*module.scope.path, name), found)
        return result

    def init(arrays):
        args, kwargs = treedef.unflatten([arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return model.init(streams, *args, **kwargs)

    key = jax.random.key(0)
    streams = {"params": key, "dropout": key, **(rngs or {})}
    with nn.intercept_methods(note):
        jax.eval_shape(init, arrays)
    return notes


def constraints(
    model: nn.Module,
    *args: PyTree,
    rngs: Mapping[str, jax.Array] | None = None,
    stacked_axis: StackedAxis = None,
    **kwargs: PyTree,
) -> optax.GradientTransformation:
    """Makes an optimiser step that applies a model's weight constraints, as Keras' `fit` does.

    Put it last in the chain: it changes each update so that it ends at the constrained weight.
    Weights of layers under `nn.vmap` or `nn.scan` are constrained one by one::

        optimizer = optax.chain(optax.adam(1e-3), gruflax.constraints(model, inputs))

    Args:
        model: an unbound Flax module with gruflax layers anywhere in it.
        *args: positional arguments of a call of `model`: each a flag, an array or a
            `jax.ShapeDtypeStruct`.
        rngs: random streams that `model.init` needs besides "params" and "dropout". Default None.
        stacked_axis: on which axis `nn.vmap` or `nn.scan` stacks the weights of members, or a tuple
            of axes for several such transformations. Default None finds it from the shapes.
        **kwargs: keyword arguments of the call, given in the same way.

    Returns:
        A transformation of updates of `variables["params"]`.

    Raises:
        ValueError: at `init`, a constrained weight is not among the parameters, or the shapes do
            not show on which axis weights are stacked; at `update`, no parameters are given.
    """
    found = collect_constraints(model, *args, rngs=rngs, **kwargs)
    constrained_paths = {path for path, (constraint, _) in found.items() if constraint is not None}
    owners = {path[:-1] for path in constrained_paths}
    found = {path: note for path, note in found.items() if path[:-1] in owners}

    def init(params):
        leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(params))
        paths = [_names(path) for path, _ in leaves]
        missing = sorted(constrained_paths - set(paths))
        if missing:
            raise ValueError(f"params must hold the constrained weights {missing}, got {paths}.")
        axes_of(nn.unbox(params))
        return optax.EmptyState()

    def axes_of(weights):
        """Finds on which axes each weight is stacked, by path."""
        leaves = jax.tree_util.tree_leaves_with_path(weights)
        shapes = {_names(path): np.shape(leaf) for path, leaf in leaves}
        axes = {}
        for owner in owners:
            # An optimiser of a subset of the weights gets that subset only.
            names = [path[-1] for path in found if path[:-1] == owner and path in shapes]
            given = {name: shapes[*owner, name] for name in names}
            members = {name: found[*owner, name][1] for name in names}
            constrained = [name for name in names if (*owner, name) in constrained_paths]
            for name, each in stacked_axes(given, members, stacked_axis, constrained).items():
                axes[*owner, name] = each
        return axes

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to update: constraints act on the weights.")

        weights, deltas = nn.unbox(params), nn.unbox(updates)
        axes = axes_of(weights)

        def constrained(path, delta, weight):
            constraint, _ = found.get(_names(path), (None, None))
            if constraint is None:
                return delta
            return each_member(constraint, axes[_names(path)])(weight + delta) - weight

        deltas = jax.tree_util.tree_map_with_path(constrained, deltas, weights)
        return nn.meta.replace_boxed(updates, deltas), state

    return optax.GradientTransformation(init, update)


def _names(path: tuple[object, ...]) -> Path:
    return tuple(str(getattr(entry, "key", entry)) for entry in path)


def sow_weight_losses(module: nn.Module, params: Mapping[str, jax.Array]) -> None:
    """Sows the regularisation loss of each parameter of a GRU into "losses"; not at init."""
    for name, value in params.items():
        regularizer = option(module, name, "regularizer")
        if regularizer is not None and not module.is_initializing():
            # A layer that is called twice counts each weight once: the last loss replaces others.
            module.sow(
                "losses",
                name,
                regularizer(value),
                reduce_fn=lambda _, loss: loss,
                init_fn=lambda: jnp.zeros(()),
            )


def total_loss(variables: Mapping[str, PyTree]) -> jax.Array:
    """Sums the losses that layers have sown into "losses", to be added to a training loss.

    Args:
        variables: the second result of `model.apply(variables, x, mutable=["losses"])`.

    Returns:
        A scalar in the widest dtype of the losses; 0 where nothing was sown.
    """
    return sum_losses(jax.tree.leaves(variables.get("losses", {})))
