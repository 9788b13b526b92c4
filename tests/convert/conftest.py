"""What the tests of all conversions share."""

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def others_promote():
    """The other libraries rely on what JAX allows by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def random():
    """The numbers of one test."""
    return np.random.default_rng(0)


@pytest.fixture
def x(random):
    """Inputs [b, t, f]."""
    return random.normal(size=(3, 6, 4)).astype(np.float32)


@pytest.fixture
def drawn(random):
    """Replaces every leaf of a tree by random numbers: constant weights hide a swapped gate."""

    def draw(tree):
        return jax.tree.map(
            lambda leaf: (0.6 * random.normal(size=leaf.shape)).astype(leaf.dtype), tree
        )

    return draw


@pytest.fixture
def equal():
    """Asserts that two trees are the same, bit by bit."""

    def check(ours, theirs):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            left, right = np.asarray(left), np.asarray(right)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)

    return check


@pytest.fixture
def close():
    """Asserts that two results agree to float32's rounding."""

    def check(ours, theirs):
        ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(left, right, rtol=2e-6, atol=2e-6)

    return check
