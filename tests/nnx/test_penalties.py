"""Regularisation losses and constraints of NNX models."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import gruflax
import gruflax.nnx as grunnx
from gruflax.keras_names import regularizers


X = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
REGULARIZERS = {
    "kernel_regularizer": {"class_name": "L1", "config": {"l1": 0.1}},
    "recurrent_regularizer": "l2",
    "bias_regularizer": lambda bias: bias.sum(),
    "activity_regularizer": "l2",
}


def model(**options):
    rngs = nnx.Rngs(0)
    options = {"bias_initializer": "random_normal", "loop": "scan"} | options
    gru = grunnx.GRU(4, 5, **options, rngs=rngs)
    return nnx.Sequential(gru, nnx.Linear(5, 2, rngs=rngs)), gru


def test_losses_are_those_of_linen():
    module, gru = model(**REGULARIZERS)
    _, captured = nnx.capture(module, grunnx.ActivityLoss)(X)
    linen = gruflax.GRU(5, loop="scan", **REGULARIZERS)
    _, sown = linen.apply(grunnx.to_linen_variables(gru), X, mutable=["losses"])
    wanted = gruflax.total_loss(sown)
    np.testing.assert_allclose(grunnx.total_loss(module, captured), wanted, rtol=1e-6)
    weights = wanted - 0.01 * (gru(X) ** 2).sum()
    np.testing.assert_allclose(grunnx.total_loss(module), weights, rtol=1e-5)
    assert grunnx.total_loss(model()[0]) == 0


def test_nothing_piles_up_where_nothing_is_captured():
    module, _ = model(**REGULARIZERS)
    before = nnx.split(module)[0]
    module(X)
    assert nnx.split(module)[0] == before
    _, captured = nnx.capture(module, nnx.Intermediate)(X)
    assert not jax.tree.leaves(captured)


def test_gradient_of_the_losses():
    module, gru = model(**REGULARIZERS)

    @nnx.jit
    @nnx.grad
    def gradient(module):
        _, captured = nnx.capture(module, grunnx.ActivityLoss)(X)
        return grunnx.total_loss(module, captured)

    def pure(params):
        activity = gruflax.gru_sequence(params, X, return_sequences=False, loop="scan")[0]
        losses = [
            0.1 * jnp.abs(params["kernel"]).sum(),
            0.01 * (params["recurrent_kernel"] ** 2).sum(),
            params["bias"].sum(),
            0.01 * (activity**2).sum(),
        ]
        return sum(losses)

    got = nnx.to_pure_dict(gradient(module))["layers"][0]
    for name, wanted in jax.grad(pure)(gru.params).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-6)


def test_constraints_act_in_place():
    module, gru = model(kernel_constraint="unit_norm", bias_constraint="non_neg")
    before = gru.params
    nnx.jit(grunnx.apply_constraints)(module)
    np.testing.assert_allclose((gru.kernel[...] ** 2).sum(axis=0), np.ones(15), rtol=1e-5)
    np.testing.assert_array_equal(gru.bias[...], np.maximum(before["bias"], 0))
    np.testing.assert_array_equal(gru.recurrent_kernel[...], before["recurrent_kernel"])


def test_constraints_of_an_ensemble_act_one_by_one():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def members(rngs):
        return grunnx.GRU(4, 5, kernel_constraint="unit_norm", rngs=rngs)

    ensemble = members(nnx.Rngs(0))
    grunnx.apply_constraints(ensemble)
    np.testing.assert_allclose((ensemble.kernel[...] ** 2).sum(axis=1), np.ones((2, 15)), rtol=1e-5)


def test_members_of_an_ensemble_have_a_loss_each():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def ensemble(rngs):
        return grunnx.GRU(
            4,
            5,
            kernel_regularizer=lambda kernel: jnp.sqrt(jnp.sum(kernel**2)),
            recurrent_regularizer="orthogonal_regularizer",
            rngs=rngs,
        )

    model = ensemble(nnx.Rngs(0))
    wanted = [np.sqrt((kernel**2).sum()) for kernel in model.kernel.get_value()]
    orthogonal = regularizers.get("orthogonal_regularizer")
    wanted += [orthogonal(kernel) for kernel in model.recurrent_kernel.get_value()]
    assert len(wanted) == 6
    np.testing.assert_allclose(grunnx.total_loss(model), sum(wanted), rtol=1e-5)
