"""Layers with the arguments and the numbers of older libraries."""

from gruflax.compat import v1 as v1
