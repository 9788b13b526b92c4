"""Keras' names, config dicts and objects, turned into callables and back."""

from gruflax.keras_names import (
    activations as activations,
    constraints as constraints,
    initializers as initializers,
    keras2 as keras2,
    regularizers as regularizers,
)
