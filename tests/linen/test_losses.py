"""What layers sow, and its sum."""

import jax
import numpy as np
import pytest
from cells import OwnStep
from flax import linen as nn

import gruflax


X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
KEY = jax.random.key(0)


def test_weights_count_once_and_activities_for_each_call():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = gruflax.GRU(3, kernel_regularizer="l2", activity_regularizer="l1", name="gru")
            return layer(x) + layer(2 * x)

    variables = Model().init(KEY, X)
    assert set(variables) == {"params"}
    _, new = Model().apply(variables, X, mutable=["losses"])
    gru = gruflax.GRU(3)
    params = {"params": variables["params"]["gru"]}
    activities = [0.01 * np.abs(gru.apply(params, scale * X)).sum() for scale in (1, 2)]
    weights = 0.01 * np.square(variables["params"]["gru"]["kernel"]).sum()
    np.testing.assert_allclose(new["losses"]["gru"]["kernel"], weights, rtol=1e-5)
    np.testing.assert_allclose(new["losses"]["gru"]["activity"], activities, rtol=1e-5)
    total = gruflax.total_loss(new)
    np.testing.assert_allclose(total, weights + sum(activities), rtol=1e-5)


def test_every_output_has_its_activity_loss():
    layer = gruflax.GRU(3, activity_regularizer="l2", return_sequences=True, return_state=True)
    variables = layer.init(KEY, X)
    (outputs, state), new = layer.apply(variables, X, mutable=["losses"])
    wanted = [0.01 * np.square(value).sum() for value in (outputs, state)]
    np.testing.assert_allclose(new["losses"]["activity"], wanted, rtol=1e-5)


def _is_gru(tree):
    return "kernel" in tree


@pytest.mark.parametrize("make", [
    lambda **fields: gruflax.RNN(gruflax.GRUCell(3, **fields)),
    lambda **fields: gruflax.GRU(3, **fields),
])  # fmt: skip
def test_gradients_flow_through_the_losses(make):
    layer = make(kernel_regularizer="l2", bias_regularizer="l1")
    variables = layer.init(KEY, X)

    def loss(params):
        _, new = layer.apply({"params": params}, X, mutable=["losses"])
        return gruflax.total_loss(new)

    (gradients,) = jax.tree.leaves(jax.grad(loss)(variables["params"]), is_leaf=_is_gru)
    (weights,) = jax.tree.leaves(variables["params"], is_leaf=_is_gru)
    np.testing.assert_allclose(gradients["kernel"], 0.02 * weights["kernel"], rtol=1e-5)
    assert not gradients["recurrent_kernel"].any()


def test_nothing_sown_is_no_loss():
    assert gruflax.total_loss({}) == 0
    assert gruflax.total_loss({"params": {"kernel": X}}) == 0


def test_sixteen_bit_weights_keep_their_digits():
    layer = gruflax.GRU(64, kernel_regularizer="l2", param_dtype="bfloat16")
    x = np.zeros((1, 1, 512), np.float32)
    variables = layer.init(KEY, x)
    _, new = layer.apply(variables, x, mutable=["losses"])
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    np.testing.assert_allclose(gruflax.total_loss(new), 0.01 * np.square(kernel).sum(), rtol=1e-4)


@pytest.mark.parametrize("unroll", [False, True])
def test_a_cell_with_a_step_of_its_own_has_its_losses_once(unroll):
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    losses = []
    for cell in (OwnStep(4, kernel_regularizer="l2"), gruflax.GRUCell(4, kernel_regularizer="l2")):
        layer = gruflax.RNN(cell, unroll=unroll)
        variables = layer.init(jax.random.key(0), x)
        _, sown = layer.apply(variables, x, mutable=["losses"])
        losses.append(gruflax.total_loss(sown))
        kernel = variables["params"]["cell"]["kernel"]
        np.testing.assert_allclose(losses[-1], 0.01 * (kernel**2).sum(), rtol=1e-6)
    assert losses[0] > 0
