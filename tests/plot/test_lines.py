"""Lines: what they show, how they are labelled, and how wrong arrays are refused."""

import numpy as np
import pytest

from gruflax import plot


RANDOM = np.random.default_rng(0)


def test_learning_curves_begin_at_the_first_epoch(drawn, names_in):
    curves = {"masked": RANDOM.random(20), "mask forgotten": RANDOM.random(12)}
    axes = drawn(plot.learning_curves(curves, ylabel="cross entropy (nats)"))
    for line, values in zip(axes.lines, curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(values) + 1))
    assert names_in(axes) == list(curves)
    assert axes.get_xlabel() == "epoch" and axes.get_ylabel() == "cross entropy (nats)"
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 2 and all(len(set(kinds)) == 2 for kinds in zip(*looks, strict=True))


def test_wrong_curves_raise():
    with pytest.raises(ValueError, match="curves must hold at least one entry"):
        plot.learning_curves({})
    with pytest.raises(ValueError, match=r"curves\['a'\] must have shape \[n\], got \(2, 3\)"):
        plot.learning_curves({"a": np.zeros((2, 3))})


def test_costs_are_on_logarithmic_axes(drawn):
    sizes, costs = [10, 100, 1000], {"scan": [1.0, 9.0, np.nan], "chunked": [0.5, 4.0, 30.0]}
    axes = drawn(plot.costs(sizes, costs, xlabel="units", ylabel="MiB"))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), costs["chunked"])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "100", "1000"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("units", "MiB")
    with pytest.raises(ValueError, match=r"costs\['scan'\] must have shape \(3,\), got \(2,\)"):
        plot.costs(sizes, {"scan": [1.0, 2.0]})


def test_a_forecast_is_a_fan_around_its_median(drawn, names_in):
    time = np.arange("2001-01-06", "2001-03-03", 7, dtype="datetime64[D]")
    levels = (0.95, 0.05, 0.5, 0.25, 0.75)
    quantiles = {level: RANDOM.random(len(time)) + level for level in levels}
    before = np.arange("2000-01-01", "2001-01-06", 7, dtype="datetime64[D]")
    values = RANDOM.normal(size=len(before))
    actual = RANDOM.normal(size=len(time))
    axes = plot.forecast(
        time, quantiles, history=(before, values), actual=actual, xlabel="week", ylabel="ppm"
    )
    drawn(axes)
    assert names_in(axes) == ["history", "90 % band", "50 % band", "median", "actual"]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["median"], quantiles[0.5])
    np.testing.assert_array_equal(lines["actual"], actual)
    np.testing.assert_array_equal(lines["history"], values)
    outer = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert outer.min() == quantiles[0.05].min() and outer.max() == quantiles[0.95].max()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("week", "ppm")


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.1, 0.5, 0.8), (0.0, 0.5, 1.0), ()])
def test_levels_without_a_pair_or_a_median_raise(levels):
    with pytest.raises(ValueError, match="quantiles must have the levels 0.5 and pairs"):
        plot.forecast(np.arange(2), {level: np.zeros(2) for level in levels})


def test_forecasts_must_fit_their_time():
    median = {0.5: np.zeros(3)}
    with pytest.raises(ValueError, match=r"quantiles\['0.5'\] must have shape \(2,\), got \(3,\)"):
        plot.forecast(np.arange(2), median)
    with pytest.raises(ValueError, match=r"actual\['actual'\] must have shape \(3,\)"):
        plot.forecast(np.arange(3), median, actual=np.zeros(2))
    with pytest.raises(ValueError, match=r"history\['values'\] must have shape \(2,\)"):
        plot.forecast(np.arange(3), median, history=(np.arange(2), np.zeros(3)))
