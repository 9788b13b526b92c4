"""What all pictures share."""

import sys

import pytest

from gruflax import plot


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: plot.load_matplotlib("figure"), lambda: plot.mask([True])):
        with pytest.raises(ImportError, match=r"pip install 'gruflax\[notebooks\]'"):
            draw()
