"""Layers and models of a user, made with the installed Keras."""

import keras
import numpy as np


layers = keras.layers


class OwnGRU(layers.GRU):
    """A subclass whose config has more than a GRU's."""

    def __init__(self, units, depth=2, **options):
        super().__init__(units, **options)
        self.depth = depth

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


class OwnCell(layers.GRUCell):
    """A subclass that only has another name."""


class Holder(layers.Layer):
    """A user's layer, which holds a GRU and says nothing of it in its config."""

    def __init__(self, **options):
        super().__init__(**options)
        self.encode = layers.GRU(3, return_sequences=True, name="held")

    def call(self, x):
        return self.encode(x)


class Subclassed(keras.Model):
    """A model of a user, with layers as attributes, in lists and inside of a layer."""

    def __init__(self):
        super().__init__()
        self.first = layers.GRU(4, return_sequences=True, name="first_gru")
        self.blocks = [Holder(), layers.Bidirectional(layers.GRU(2), name="pair")]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def inputs_of(layer, random):
    """Inputs [b, t, f] of a layer."""
    return random.normal(size=(3, 6, layer.get_weights()[0].shape[0])).astype(np.float32)


def draw(model, random):
    model.set_weights([0.6 * random.normal(size=each.shape) for each in model.get_weights()])
    return model
