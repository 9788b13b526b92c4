"""Ensembles, scanned layers and checkpointing: gruflax under Flax's and JAX's transformations."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gruflax
from gruflax.linen import Bidirectional, Stack, StackedRNNCells


X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
MASK = np.random.default_rng(1).random((3, 6)) < 0.6
KEY = jax.random.key(0)
MAKERS = {
    "gru": lambda: gruflax.GRU(4, return_sequences=True),
    "bidirectional": lambda: Bidirectional(gruflax.GRU(4, return_sequences=True), "sum"),
    "stack": lambda: Stack([gruflax.GRU(4, return_sequences=True) for _ in range(2)]),
    "cells": lambda: gruflax.RNN(
        StackedRNNCells([gruflax.GRUCell(4), gruflax.GRUCell(4)]), return_sequences=True
    ),
}


def scaled(tree):
    """Weights that are not those of the initialisation, biases that are not zero."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(11 * leaf), tree)


def members(params, count):
    return [jax.tree.map(lambda leaf, index=index: leaf[index], params) for index in range(count)]


@pytest.mark.parametrize("kind", ["bidirectional", "cells"])
def test_an_ensemble_of_parameters_by_vmap(kind):
    model = MAKERS[kind]()
    keys = jax.random.split(KEY, 3)
    params = scaled(jax.vmap(lambda key: model.init(key, X)["params"])(keys))

    def loss(params, x):
        return jnp.square(model.apply({"params": params}, x, mask=MASK)).sum()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None)))(params, X)
    one = jax.jit(jax.value_and_grad(loss))
    for index, member in enumerate(members(params, 3)):
        value, gradient = one(member, X)
        np.testing.assert_allclose(values[index], value, rtol=1e-5)
        chex.assert_trees_all_close(members(gradients, 3)[index], gradient, rtol=1e-4, atol=1e-5)


class Layer(nn.Module):
    """One layer as the body of a scan over layers."""

    kind: str
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, training):
        if self.kind == "gru":
            layer = gruflax.GRU(4, return_sequences=True, dropout=self.dropout, name="layer")
        else:
            layer = Bidirectional(gruflax.GRU(4, return_sequences=True), "sum", name="layer")
        return layer(x, training=training), None


def scanned(layer, length, **fields):
    transformed = nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=length,
    )
    return transformed(**fields)


@pytest.mark.parametrize("kind, remat", [("gru", False), ("bidirectional", True)])
def test_scan_over_layers(kind, remat):
    """One layer in the compiled program, a leading axis of layers in the parameters."""
    body = nn.remat(Layer, static_argnums=(2,), prevent_cse=False) if remat else Layer
    model = scanned(body, 3, kind=kind)
    params = scaled(model.init(KEY, X, False)["params"])
    stack = Stack([MAKERS[kind]() for _ in range(3)])
    layers = {f"layers_{index}": member for index, member in enumerate(members(params["layer"], 3))}

    @jax.jit
    @jax.value_and_grad
    def scanned_loss(params):
        return jnp.square(model.apply({"params": params}, X, False)[0]).sum()

    @jax.jit
    @jax.value_and_grad
    def stacked_loss(params):
        return jnp.square(stack.apply({"params": params}, X)).sum()

    value, gradient = scanned_loss(params)
    wanted, wanted_gradient = stacked_loss(layers)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for index, member in enumerate(members(gradient["layer"], 3)):
        chex.assert_trees_all_close(
            member, wanted_gradient[f"layers_{index}"], rtol=1e-4, atol=1e-5
        )


def test_scanned_layers_drop_each_for_itself():
    model = scanned(Layer, 2, kind="gru", dropout=0.5)
    params = model.init({"params": KEY, "dropout": KEY}, X, True)["params"]
    call = {"rngs": {"dropout": KEY}}
    outputs, _ = model.apply({"params": params}, X, True, **call)
    plain, _ = model.apply({"params": params}, X, False)
    again, _ = model.apply({"params": params}, X, True, **call)
    assert abs(outputs - plain).max() > 0.01
    np.testing.assert_array_equal(outputs, again)


@pytest.mark.parametrize("kind", ["gru", "stack"])
def test_gradient_checkpointing(kind):
    """`nn.remat` of a class and `jax.checkpoint` of a call: the same numbers, less is kept."""
    model = MAKERS[kind]()
    variables = {"params": scaled(model.init(KEY, X)["params"])}
    names = [field.name for field in dataclasses.fields(model) if field.init]
    fields = {name: getattr(model, name) for name in names if name not in ("parent", "name")}
    rematted = nn.remat(type(model))(**fields)
    apply = lambda variables: model.apply(variables, X, mask=MASK)  # noqa: E731
    calls = (
        apply,
        jax.checkpoint(apply),
        lambda variables: rematted.apply(variables, X, mask=MASK),
    )
    results = [
        jax.jit(jax.value_and_grad(lambda v, call=call: jnp.square(call(v)).sum()))(variables)
        for call in calls
    ]
    for result in results[1:]:
        chex.assert_trees_all_close(result, results[0], rtol=1e-5, atol=1e-5)
    kept = [numbers_kept(call, variables) for call in calls]
    assert kept[1] < kept[0] and kept[2] < kept[0]


def numbers_kept(call, variables):
    """How many numbers the backward pass keeps of the forward pass."""
    _, backward = jax.eval_shape(lambda variables: jax.vjp(call, variables), variables)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize("transform", ["vmap", "remat"])
@pytest.mark.parametrize("kind", ["bidirectional", "stack", "cells"])
def test_lifted_inside_a_model(kind, transform):
    """Layers made in a compact method and handed to a transformed class."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            gru = gruflax.GRU(4, return_sequences=True)
            arguments = {
                "bidirectional": (Bidirectional, (gru,)),
                "stack": (Stack, ([gru, gruflax.GRU(4, return_sequences=True)],)),
                "cells": (gruflax.RNN, (StackedRNNCells([gruflax.GRUCell(4)]), True)),
            }
            cls, fields = arguments[kind]
            if transform == "vmap":
                axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
                cls = nn.vmap(cls, **axes, in_axes=None, axis_size=2)
            else:
                cls = nn.remat(cls)
            return cls(*fields)(x)

    outputs, variables = Model().init_with_output(KEY, X)
    again = jax.jit(Model().apply)(variables, X)
    np.testing.assert_allclose(again, outputs, atol=1e-6)
    shapes = {leaf.shape[:-2] for leaf in jax.tree.leaves(variables)}
    assert shapes == ({(2,)} if transform == "vmap" else {()})
    if transform == "vmap":
        assert outputs.shape[:3] == (2, 3, 6)
        assert abs(outputs[0] - outputs[1]).max() > 0.01


TRANSFORMED = {
    "Bidirectional of remat": lambda lift: gruflax.Bidirectional(lift(gruflax.GRU)(4, dropout=0.5)),
    "Stack of remat": lambda lift: gruflax.Stack(
        [lift(gruflax.GRU)(4, return_sequences=True, dropout=0.5), gruflax.GRU(3)]
    ),
    "RNN of remat": lambda lift: gruflax.RNN(lift(gruflax.GRUCell)(4, dropout=0.5)),
    "remat": lambda lift: lift(gruflax.GRU)(4, dropout=0.5),
    "remat of Bidirectional": lambda lift: lift(gruflax.Bidirectional)(gruflax.GRU(4, dropout=0.5)),
    "remat of Stack": lambda lift: lift(gruflax.Stack)([gruflax.GRU(4, dropout=0.5)]),
}


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_lifted_layers_take_training_by_keyword(lift, name):
    layer, plain = TRANSFORMED[name](lift), TRANSFORMED[name](lambda cls: cls)
    params = layer.init(KEY, X)
    np.testing.assert_allclose(layer.apply(params, X), plain.apply(params, X), atol=1e-6)

    def loss(params, layer=layer, training=True):
        outputs = layer.apply(params, X, training=training, rngs={"dropout": KEY})
        return (outputs**2).sum()

    dropped, gradients = jax.value_and_grad(loss)(params)
    assert np.abs(dropped - loss(params, training=False)) > 0.01
    assert dropped == loss(params)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 0
    if lift is nn.remat and name != "RNN of remat":
        # Others draw other masks: nn.jit has keys of its own, and this cell is run step by step.
        wanted, theirs = jax.value_and_grad(functools.partial(loss, layer=plain))(params)
        np.testing.assert_allclose(dropped, wanted, rtol=1e-5)
        chex.assert_trees_all_close(gradients, theirs, atol=1e-5)
