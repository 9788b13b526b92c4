"""Keras' names, config dicts and objects, turned into callables and back."""

from gruflax.named import (
    activations as activations,
    constraints as constraints,
    initializers as initializers,
    regularizers as regularizers,
)
