"""Layers of older libraries."""

from gruflax.compat import v1 as v1
