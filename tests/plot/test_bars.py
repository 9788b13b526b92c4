"""Bars: what they show, how they are labelled, and how wrong arrays are refused."""

import numpy as np
import pytest

from gruflax import plot


def test_ratios_are_bars_that_stand_on_one(drawn, names_in):
    values = {"keras": [2.0, 0.5], "floor": [np.nan, 0.25]}
    axes = plot.ratios(values, ["a", "b"], looks={"floor": {"color": plot.GREY, "hatch": "//"}})
    drawn(axes)
    tops = [bar.get_y() + bar.get_height() for group in axes.containers for bar in group]
    np.testing.assert_array_equal(tops, [2.0, 0.5, np.nan, 0.25])
    assert names_in(axes) == ["gruflax = 1", "keras", "floor"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_yscale() == "log" and "time of gruflax" in axes.get_ylabel()
    assert axes.containers[1].patches[0].get_hatch() == "//"
    with pytest.raises(ValueError, match=r"ratios\['keras'\] must have shape \(2,\), got \(1,\)"):
        plot.ratios({"keras": [1.0]}, ["a", "b"])
