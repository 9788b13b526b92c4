"""Regularizers and constraints against Keras' own."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from gruflax.keras_names import constraints, regularizers


W = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)


@pytest.fixture(autouse=True)
def keras_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("L1", {}),
        ("L1", {"l1": 0.3}),
        ("L2", {}),
        ("L2", {"l2": 0.3}),
        ("L1L2", {"l1": 0.1, "l2": 0.2}),
        ("OrthogonalRegularizer", {}),
        ("OrthogonalRegularizer", {"factor": 0.5, "mode": "columns"}),
    ],
)
def test_losses(name, arguments):
    ours = getattr(regularizers, name)(**arguments)(jnp.asarray(W))
    # As a JAX array: of a numpy array Keras 3.15 cannot normalise the columns.
    theirs = getattr(keras.regularizers, name)(**arguments)(jnp.asarray(W))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert ours.shape == ()


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("MaxNorm", {}),
        ("MaxNorm", {"max_value": 1.5, "axis": 1}),
        ("MinMaxNorm", {}),
        ("MinMaxNorm", {"min_value": 2.5, "max_value": 3.0, "rate": 0.4, "axis": 1}),
        ("NonNeg", {}),
        ("UnitNorm", {}),
        ("UnitNorm", {"axis": 1}),
    ],
)
def test_constraints(name, arguments):
    ours = getattr(constraints, name)(**arguments)(jnp.asarray(W))
    theirs = getattr(keras.constraints, name)(**arguments)(W)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(ours - W).max() > 0.05
    assert getattr(constraints, name)(**arguments)(jnp.asarray(W, "bfloat16")).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["MaxNorm", "MinMaxNorm", "UnitNorm", "NonNeg"])
def test_zero_weights_stay_zero(name, dtype):
    zeros = jnp.zeros((2, 9), dtype)
    constraint = getattr(constraints, name)(**({"min_value": 0.5} if name == "MinMaxNorm" else {}))
    np.testing.assert_array_equal(np.asarray(constraint(zeros), np.float32), 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", [constraints, regularizers])
def test_nothing_is_promoted(kind, dtype):
    calls = [cls() for cls in kind._CLASSES]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        values = jax.jit(lambda weight: [call(weight) for call in calls])(jnp.asarray(W, dtype))
    for value in values:
        assert value.dtype == (dtype if kind is constraints else jnp.float32)
        assert np.isfinite(np.asarray(value, np.float32)).all()


@pytest.mark.parametrize("factor", [-1.0, np.nan, np.inf, "0.1", None])
@pytest.mark.parametrize(
    "name, argument",
    [
        ("L1", "l1"),
        ("L2", "l2"),
        ("L1L2", "l1"),
        ("L1L2", "l2"),
        ("OrthogonalRegularizer", "factor"),
    ],
)
def test_factors_are_checked(name, argument, factor):
    with pytest.raises(ValueError, match=f"{argument} must be a finite number of at least 0, got"):
        getattr(regularizers, name)(**{argument: factor})


@pytest.mark.parametrize("name", ["L1", "L2", "L1L2", "OrthogonalRegularizer"])
def test_half_precision_sums_in_float32(name):
    regularizer = getattr(regularizers, name)()
    narrow, wide = jnp.asarray(W, "bfloat16"), jnp.asarray(W, "bfloat16").astype("float32")
    assert regularizer(narrow).dtype == jnp.float32
    np.testing.assert_allclose(regularizer(narrow), regularizer(wide), rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="mode must be 'rows' or 'columns', got 'both'"):
        regularizers.OrthogonalRegularizer(mode="both")
    with pytest.raises(ValueError, match=r"weight must be a matrix, got shape \(5,\)"):
        regularizers.OrthogonalRegularizer()(jnp.ones(5))
