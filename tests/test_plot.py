"""Pictures: what they show, how they are labelled, and how wrong arrays are refused."""

import sys
from typing import NamedTuple

import numpy as np
import pytest

from gruflax import plot


RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def close_figures():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    yield
    pyplot.close("all")


@pytest.fixture
def drawn():
    """Draws the figure of some axes, so that what fails only then fails here."""

    def draw(axes):
        axes.figure.canvas.draw()
        return axes

    return draw


@pytest.fixture
def names_in():
    """Reads a legend."""
    return lambda axes: [text.get_text() for text in axes.get_legend().get_texts()]


class Gates(NamedTuple):
    update: np.ndarray
    reset: np.ndarray
    candidate: np.ndarray
    state: np.ndarray


@pytest.fixture
def gates():
    return Gates(*RANDOM.random((2, 7, 3)), *RANDOM.normal(size=(2, 7, 3)))


def test_gates_are_heat_maps_with_units_as_rows(gates, drawn):
    panels = plot.gates(gates)
    assert [panel.get_title("left") for panel in panels] == [
        "update gate",
        "reset gate",
        "candidate",
        "state",
    ]
    for panel, array in zip(panels, gates, strict=True):
        (image,) = drawn(panel).images
        np.testing.assert_array_equal(image.get_array(), array.T)
        assert panel.get_ylabel() == "unit"
    assert panels[-1].get_xlabel() == "step"
    assert panels[0].images[0].get_clim() == (0, 1)
    low, high = panels[3].images[0].get_clim()
    assert -low == high == np.abs(gates.state).max()


def test_gates_of_some_units_in_given_axes(gates, drawn):
    _, axes = plot.load_matplotlib("pyplot").subplots(2)
    panels = plot.gates(gates, axes, units=[2, 0], parts=("reset", "state"))
    assert list(panels) == list(axes)
    np.testing.assert_array_equal(panels[0].images[0].get_array(), gates.reset[:, [2, 0]].T)
    assert [label.get_text() for label in drawn(panels[1]).get_yticklabels()] == ["2", "0"]


def test_of_many_units_some_are_numbered_and_all_have_a_tick(drawn):
    units = list(range(29, 5, -1))
    (panel,) = plot.gates(Gates(*RANDOM.random((4, 5, 30))), units=units, parts=("update",))
    numbers = [label.get_text() for label in drawn(panel).get_yticklabels()]
    assert numbers == [str(unit) for unit in units[::3]]
    assert len(panel.get_yticks(minor=True)) == 24 - len(numbers)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"units": [3]}, ValueError, r"units must be from 0 to 2, got \[3\]"),
        ({"units": [0.5]}, ValueError, r"units must be integers"),
        ({"units": []}, ValueError, r"units must be integers, at least one"),
        ({"parts": ("forget",)}, ValueError, r"parts must be some of .*, got \('forget',\)"),
        ({"parts": ()}, ValueError, r"parts must be some of"),
        ({"axes": [None]}, ValueError, r"axes must be 4, one for each of parts, got 1"),
        (
            {"activations": {}},
            TypeError,
            "activations must be what gruflax.gate_activations returns, got dict",
        ),
        (
            {"activations": Gates(*np.zeros((4, 2, 7, 3)))},
            ValueError,
            r"activations.update must have shape \[t, u\], none of them 0, got \(2, 7, 3\)",
        ),
    ],
)
def test_wrong_activations_raise(gates, options, error, message):
    with pytest.raises(error, match=message):
        plot.gates(**({"activations": gates} | options))


def test_a_mask_shows_which_steps_count(drawn, names_in):
    mask = RANDOM.random((4, 9)) < 0.5
    axes = drawn(plot.mask(mask.astype(np.float32)))
    np.testing.assert_array_equal(axes.collections[0].get_array(), mask)
    assert names_in(axes) == ["valid", "masked"]
    assert axes.yaxis_inverted() and axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "sequence"
    row = plot.mask(mask[0])
    assert row.collections[0].get_array().shape == (1, 9)


@pytest.mark.parametrize("shape", [(), (2, 3, 4), (0, 3)])
def test_wrong_masks_raise(shape):
    with pytest.raises(ValueError, match=r"mask must have shape \[n, t\]"):
        plot.mask(np.ones(shape))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: plot.load_matplotlib("figure"), lambda: plot.mask([True])):
        with pytest.raises(
            ImportError, match=r"pip install matplotlib, or gruflax with its extra .notebooks"
        ):
            draw()
