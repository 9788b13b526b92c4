"""Regularisation losses and constraints on weights, for training NNX models."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from gruflax.functional.checks import PyTree
from gruflax.functional.params import params_shapes
from gruflax.layers.fields import option
from gruflax.layers.members import StackedAxis, each_member, stacked_axes, sum_losses
from gruflax.nnx.gru import GRUBase


# No argument is keyword-only, because NNX' transformations do not take such functions.
def total_loss(
    module: nnx.Module, captured: PyTree = None, stacked_axis: StackedAxis = None
) -> jax.Array:
    """Sums the regularisation losses of a model, to be added to a training loss.

    For example::

        outputs, captured = nnx.capture(model, gruflax.nnx.ActivityLoss)(inputs)
        loss = mean_squared_error(outputs, targets) + gruflax.nnx.total_loss(model, captured)

    Args:
        module: a module that contains GRUs; each of their weights counts once.
        captured: the activity losses that `nnx.capture` returns. Default None: there are none.
        stacked_axis: on which axis `nnx.vmap` or `nnx.scan` stacks the weights of members, or a
            tuple of axes for several such transformations. Default None finds it from the shapes.

    Returns:
        A scalar in the widest dtype of the losses; 0 where nothing is regularised.

    Raises:
        ValueError: the shapes do not show on which axis weights are stacked.
    """
    losses = jax.tree.leaves(captured)
    for gru, name, axes, regularizer in _with_option(module, "regularizer", stacked_axis):
        # Each member of stacked weights has its own loss.
        losses.append(each_member(regularizer, axes, scalar=True)(gru.params[name]))
    return sum_losses(losses)


def apply_constraints(module: nnx.Module, stacked_axis: StackedAxis = None) -> None:
    """Constrains a model's weights in place, as Keras' `fit` does after each update.

    For example::

        optimizer.update(model, gradients)
        gruflax.nnx.apply_constraints(model)

    Weights of layers under `nnx.vmap` are constrained one by one.

    Args:
        module: a module that contains GRUs.
        stacked_axis: the same as in `total_loss`. Default None.

    Raises:
        ValueError: the shapes do not show on which axis weights are stacked.
    """
    for gru, name, axes, constraint in _with_option(module, "constraint", stacked_axis):
        constrained = each_member(constraint, axes)(gru.params[name])
        getattr(gru, name).set_value(constrained)


def _with_option(
    module: nnx.Module, kind: str, stacked_axis: StackedAxis
) -> Iterator[tuple[GRUBase, str, tuple[int, ...], Callable[..., Any]]]:
    """Yields each GRU and weight that has an option, the axes it is stacked on, and the option."""
    for _, gru in nnx.iter_modules(module):
        if not isinstance(gru, GRUBase):
            continue
        options = {name: option(gru, name, kind) for name in gru.params}
        options = {name: found for name, found in options.items() if found is not None}
        if not options:
            continue
        shapes = {name: value.shape for name, value in gru.params.items()}
        members = params_shapes(gru.in_features, gru.units, gru.config)
        for name, axes in stacked_axes(shapes, members, stacked_axis, options).items():
            yield gru, name, axes, options[name]
