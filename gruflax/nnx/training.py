"""Regularisation losses, and constraints on weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gruflax.functional.params import params_shapes
from gruflax.keras_names import regularizers
from gruflax.layers.fields import each_member, option
from gruflax.nnx.weights import GRUWeights


class ActivityLoss(nnx.Intermediate):
    """The loss that an `activity_regularizer` makes of each output of a call."""


def total_loss(module: nnx.Module, captured: Any = None) -> jax.Array:
    """Sums the regularisation losses of a model, to be added to a training loss.

        outputs, captured = nnx.capture(model, gruflax.nnx.ActivityLoss)(inputs)
        loss = mean_squared_error(outputs, targets) + gruflax.nnx.total_loss(model, captured)

    Args:
        module: with GRUs anywhere in it; each of their weights counts once.
        captured: the activity losses, as `nnx.capture` returns them; None where there are none.

    Returns:
        A scalar; 0 where nothing is regularised.
    """
    losses = jax.tree.leaves(captured)
    for gru in _grus(module):
        for name, value in gru.params.items():
            regularizer = option(gru, name, "regularizer")
            if regularizer is not None:
                # Of stacked weights each member has a loss of its own.
                losses.append(each_member(regularizer, value.ndim - _rank(gru, name))(value))
    return sum((jnp.sum(loss) for loss in losses), start=jnp.zeros(()))


def sow_activity_loss(layer: Any, result: Any) -> None:
    """Sows the activity loss of each output of a call, where it is captured."""
    # Outside of nnx.capture nobody would collect what is sown, and it would pile up.
    regularizer = regularizers.get(layer.activity_regularizer, "activity_regularizer")
    if regularizer is None or not hasattr(layer, "__captures__"):
        return
    for output in jax.tree.leaves(result):
        layer.sow(ActivityLoss, "activity", regularizer(output))


def apply_constraints(module: nnx.Module) -> None:
    """Constrains a model's weights in place, as Keras' `fit` does after each update.

        optimizer.update(model, gradients)
        gruflax.nnx.apply_constraints(model)

    Weights of layers under `nnx.vmap` are constrained one by one.

    Args:
        module: with GRUs anywhere in it.
    """
    for gru in _grus(module):
        for name, value in gru.params.items():
            constraint = option(gru, name, "constraint")
            if constraint is not None:
                constraint = each_member(constraint, value.ndim - _rank(gru, name))
                getattr(gru, name).set_value(constraint(value))


def _rank(gru: GRUWeights, name: str) -> int:
    """The axes of a weight of one GRU: `nnx.vmap` and `nnx.scan` put more in front."""
    return len(params_shapes(gru.in_features, gru.units, gru.config)[name])


def _grus(module: nnx.Module) -> list[GRUWeights]:
    return [each for _, each in nnx.iter_modules(module) if isinstance(each, GRUWeights)]
