"""Initializers: Keras' distributions, every dtype, every shape of a GRU."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from gruflax.keras_names import initializers


RANDOM = ("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform")
RANDOM += ("RandomNormal", "RandomUniform", "TruncatedNormal")
KEY = jax.random.key(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("shape", [(300, 200), (2, 30000), (700,)])
def test_distribution(name, shape):
    ours = np.asarray(initializers.get(name)(KEY, shape))
    with jax.numpy_dtype_promotion("standard"):
        theirs = np.asarray(getattr(keras.initializers, name)(seed=1)(shape))
    tolerance = 4.0 / np.sqrt(theirs.size)
    assert ours.dtype == np.float32 and abs(ours.mean()) < tolerance * theirs.std()
    assert ours.std() == pytest.approx(theirs.std(), rel=3 * tolerance)
    bound = np.abs(theirs).max()
    assert np.abs(ours).max() == pytest.approx(bound, rel=0.2 if "Normal" in name else 0.01)
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=2 * tolerance * bound
    )


def test_limits_see_the_fused_matrix():
    kernel = initializers.get("glorot_uniform")(KEY, (128, 768))
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (128 + 768)), rel=1e-3)


def test_truncation_at_two_deviations():
    draw = initializers.TruncatedNormal(1.0, 0.1)(KEY, (100, 100))
    assert 1.19 < draw.max() <= 1.2 and 0.8 <= draw.min() < 0.81


@pytest.mark.parametrize("name", [*RANDOM, "Orthogonal", "Identity", "Constant", "Zeros", "Ones"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(name, dtype):
    draw = initializers.get(name)
    value = draw(KEY, (6, 9), jnp.dtype(dtype))
    assert value.dtype == dtype and value.shape == (6, 9)
    np.testing.assert_array_equal(value, draw(KEY, (6, 9), jnp.dtype(dtype)))


@pytest.mark.parametrize("shape", [(6, 18), (18, 6)])
def test_orthogonal(shape):
    matrix = np.asarray(initializers.Orthogonal(gain=2.0)(KEY, shape))
    matrix = matrix if shape[0] < shape[1] else matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, 4 * np.eye(6), atol=1e-5)


def test_constants():
    np.testing.assert_array_equal(initializers.Constant(3.0)(KEY, (2,)), [3, 3])
    np.testing.assert_array_equal(initializers.Identity(2.0)(KEY, (2, 3)), [[2, 0, 0], [0, 2, 0]])
    assert initializers.Ones()(KEY, (2,)).all() and not initializers.Zeros()(KEY, (2,)).any()
    with pytest.raises(ValueError, match="Identity makes matrices only"):
        initializers.Identity()(KEY, (3,))


def test_a_seed_replaces_the_key():
    seeded = initializers.GlorotUniform(seed=5)
    np.testing.assert_array_equal(seeded(KEY, (3, 4)), seeded(jax.random.key(1), (3, 4)))
    free = initializers.GlorotUniform()
    assert not np.array_equal(free(KEY, (3, 4)), free(jax.random.key(1), (3, 4)))


def test_a_vector_costs_no_matrix():
    draw = jax.jit(lambda key: initializers.GlorotUniform()(key, (4096,)))
    # The vector has 16 KiB; a square of its length 64 MiB.
    memory = draw.lower(KEY).compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 2**20
    assert np.abs(draw(KEY)).max() == pytest.approx(np.sqrt(6 / (2 * 4096)), rel=1e-2)


@pytest.mark.parametrize("name", [*RANDOM, "VarianceScaling", "Orthogonal"])
@pytest.mark.parametrize("seed", [1.5, "1", {"class_name": "Generator"}])
def test_seed_must_be_an_integer(name, seed):
    with pytest.raises(ValueError, match="seed must be an integer or None, got"):
        initializers.get({"class_name": name, "config": {"seed": seed}})


def test_a_seed_generator_of_keras_is_the_seed_that_it_began_with():
    seed = {"module": "keras.random", "class_name": "SeedGenerator", "config": {"seed": 5}}
    found = initializers.get({"class_name": "RandomNormal", "config": {"seed": seed}})
    assert found == initializers.RandomNormal(seed=5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": 0}, "scale must be positive, got 0"),
        ({"mode": "fan"}, "mode must be one of .*, got 'fan'"),
        ({"distribution": "flat"}, "distribution must be one of .*, got 'flat'"),
    ],
)
def test_variance_scaling_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        initializers.VarianceScaling(**arguments)
