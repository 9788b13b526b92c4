"""A benchmark of gruflax against the libraries that are installed: `python -m gruflax.bench`."""

from gruflax.bench.case import Case


__all__ = ["Case"]
