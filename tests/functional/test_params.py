"""How parameters start, and the checks that they fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gruflax import GRUConfig, init_gru_params


def test_shapes_and_names():
    def shapes(config):
        return jax.tree.map(jnp.shape, init_gru_params(jax.random.key(0), 4, 5, config))

    assert shapes(GRUConfig()) == {
        "kernel": (4, 15),
        "recurrent_kernel": (5, 15),
        "bias": (2, 15),
    }
    assert shapes(GRUConfig(reset_after=False))["bias"] == (15,)
    assert "bias" not in shapes(GRUConfig(use_bias=False))


def test_fused_matrices_are_drawn_as_a_whole():
    params = init_gru_params(jax.random.key(0), 128, 256)
    limit = np.sqrt(6 / (128 + 3 * 256))
    assert 0.99 * limit < np.abs(params["kernel"]).max() <= limit
    recurrent = np.asarray(params["recurrent_kernel"])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(256), atol=1e-5)
    assert not params["bias"].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_orthogonal_in_half_precision(dtype):
    params = init_gru_params(jax.random.key(0), 4, 8, dtype=dtype)
    assert {value.dtype.name for value in params.values()} == {dtype}
    recurrent = np.asarray(params["recurrent_kernel"], np.float32)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=2e-2)


def test_float64(x64):
    params = init_gru_params(jax.random.key(0), 4, 8, dtype="float64")
    recurrent = np.asarray(params["recurrent_kernel"])
    assert recurrent.dtype == np.float64
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=1e-14)


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None, True])
def test_sizes_must_be_positive_integers(size):
    with pytest.raises(ValueError, match="units must be a positive integer"):
        init_gru_params(jax.random.key(0), 4, size)
    if size == 0:
        params = init_gru_params(jax.random.key(0), size, 4)
        assert params["kernel"].shape == (0, 12) and params["recurrent_kernel"].any()
    else:
        with pytest.raises(ValueError, match="features must be an integer of at least 0"):
            init_gru_params(jax.random.key(0), size, 4)


def test_numpy_integers_are_sizes():
    params = init_gru_params(jax.random.key(0), np.int64(4), np.int32(5))
    assert params["kernel"].shape == (4, 15)
