"""Statistics, on numbers whose answers are known."""

import numpy as np
import pytest

from gruflax.bench.measure import geometric_mean, spread


def test_the_spread_of_known_numbers():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0, 5)
    assert spread([0.5]) == (0.5, 0.5, 0.5, 1)


def test_quartiles_are_those_of_numpy():
    seconds = np.random.default_rng(3).gamma(2.0, size=38)
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(spread(seconds.tolist())[:3], (median, low, high), rtol=1e-12)


def test_an_outlier_moves_neither_the_median_nor_the_quartiles():
    calm = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert spread([*calm[:-1], 7e9])[:3] == spread(calm)[:3]


def test_the_geometric_mean_of_known_numbers():
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean(value for value in [0.5, 2.0]) == pytest.approx(1.0)


@pytest.mark.parametrize("ratios", [[], [1.0, 0.0], [2.0, -1.0]])
def test_ratios_must_be_positive(ratios):
    with pytest.raises(ValueError, match="ratios must be positive numbers, at least one"):
        geometric_mean(ratios)


def test_there_must_be_timings():
    with pytest.raises(ValueError, match="seconds must hold at least one timing"):
        spread([])
