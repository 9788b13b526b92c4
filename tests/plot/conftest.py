"""Pictures are drawn without a window, and closed after each test."""

import pytest


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
