"""Derivatives of every loop against finite differences, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

import gruflax


RANDOM = np.random.default_rng(1)
SHAPES = {"kernel": (3, 12), "recurrent_kernel": (4, 12)}
X, H0 = RANDOM.normal(size=(2, 4, 3)), RANDOM.normal(size=(2, 4))
MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
RESET = np.array([[0, 0, 0, 1], [0, 0, 1, 0]], bool)


# The gradients of one member are among the golden cases.
@pytest.mark.parametrize("loop", ["chunked", *oracle.NATIVE, *list(oracle.MEMBERS)[1:]])
@pytest.mark.parametrize(
    "reset_after, masked", list(itertools.product([True, False], [True, False]))
)
def test_first_and_second_order(x64, reset_after, masked, loop):
    config = gruflax.GRUConfig(
        reset_after=reset_after, dropout=0.3, recurrent_dropout=0.3 if masked else 0.0
    )
    shapes = SHAPES | {"bias": (2, 12) if reset_after else (12,)}
    # The same for every loop.
    random = np.random.default_rng(2)
    params = {name: jnp.asarray(random.normal(size=shape) * 0.5) for name, shape in shapes.items()}
    options = {"mask": MASK, "reset": RESET} if masked else {}

    @jax.jit
    def run(params, x, h0):
        outputs, state = oracle.sequence(
            params,
            x,
            config=config,
            initial_state=h0,
            rng=jax.random.key(0),
            loop=loop,
            **options,
        )
        return (outputs**2).sum() + jnp.sin(state).sum()

    check_grads(run, (params, jnp.asarray(X), jnp.asarray(H0)), order=2, atol=1e-5, rtol=1e-5)


def test_float64_is_computed_throughout(x64):
    params = {name: RANDOM.normal(size=shape) * 0.5 for name, shape in SHAPES.items()}
    config = gruflax.GRUConfig(use_bias=False)
    outputs, state = gruflax.gru_sequence(params, X, config=config, initial_state=H0)
    assert outputs.dtype == state.dtype == np.float64
    wanted, _ = oracle.numpy_gru(params, X, H0)
    np.testing.assert_allclose(outputs, wanted, atol=1e-14)
