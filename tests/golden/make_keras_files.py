"""Makes the model files of the installed Keras: `python make_keras_files.py FOLDER [tf_keras]`.

Each release writes the same two models, a functional and a subclassed one, in each of its formats
into FOLDER/VERSION, and what each of their recurrent layers holds and computes into `arrays.npz`.
`keras_files.zip` has the folders of several releases.
"""

import importlib
import os
import pathlib
import sys

import numpy as np


os.environ.setdefault("KERAS_BACKEND", "jax")
keras = importlib.import_module(sys.argv[2] if len(sys.argv) > 2 else "keras")
layers = keras.layers


class WeightClip(keras.constraints.Constraint):
    """A constraint that no other program knows."""

    def __init__(self, limit=0.5):
        self.limit = limit

    def __call__(self, weight):
        return weight

    def get_config(self):
        return {"limit": self.limit}


class OwnGRU(layers.GRU):
    """A subclass with an argument of its own."""

    def __init__(self, units, depth=2, **options):
        super().__init__(units, **options)
        self.depth = depth

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


class Encoder(layers.Layer):
    """A layer that holds a GRU, of which its config says nothing."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gru = layers.GRU(2, return_sequences=True, name="held")

    def build(self, shape):
        self.gru.build(shape)
        self.built = True

    def call(self, x):
        return self.gru(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


class Subclassed(keras.Model):
    """A model whose layers are attributes and members of a list."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first = layers.GRU(4, return_sequences=True, name="first_gru")
        self.blocks = [
            layers.GRU(4, return_sequences=True, name="second_gru"),
            layers.Bidirectional(layers.GRU(2), name="third"),
        ]
        self.head = layers.Dense(1)

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def sequential(*inner, name):
    """A model inside of a model."""
    shape = (None, 4)
    return keras.Sequential([keras.Input(shape), *inner], name=name)


def functional():
    """A model with a GRU of every kind, and the recurrent layers by what they may be called."""
    same = {"return_sequences": True}
    found = {
        "inner_a/gru": layers.GRU(4, name="gru", **same),
        "inner_b/gru": layers.GRU(4, name="gru", **same),
        "pair": layers.Bidirectional(layers.GRU(2, **same), name="pair"),
        "deep": layers.RNN([layers.GRUCell(4), layers.GRUCell(4)], name="deep", **same),
        "both": layers.Bidirectional(layers.RNN(layers.GRUCell(2), **same), name="both"),
        "leaky": layers.GRU(
            3,
            activation=layers.LeakyReLU(),
            recurrent_activation="hard_sigmoid",
            kernel_constraint=WeightClip(),
            name="leaky",
            **same,
        ),
        "own": OwnGRU(4, reset_after=False, name="own", **same),
        "held": Encoder(name="encoder"),
        "part": layers.GRU(4, use_bias=False, **same),
        "inside": layers.GRU(2, name="inside"),
    }
    x = inputs = keras.Input((6, 4))
    x = sequential(found["inner_a/gru"], name="inner_a")(x)
    x = sequential(found["inner_b/gru"], name="inner_b")(x)
    x = layers.LSTM(4, name="lstm", **same)(x)
    for name in ("pair", "deep", "both", "leaky", "own", "held"):
        x = found[name](x)
    x = layers.Reshape((3, 2, 2))(x)
    x = layers.TimeDistributed(found["part"], name="part")(x)
    encoder = sequential(layers.Dropout(0.1), found["inside"], name="encode")
    x = layers.TimeDistributed(encoder, name="each")(x)
    model = keras.Model(inputs, layers.Flatten()(x))
    # Keras puts the weights of what does not learn behind all others.
    found["pair"].forward_layer.trainable = False
    found["deep"].cell.cells[0].trainable = False
    found["held"] = found["held"].gru
    return model, found


def cells(layer):
    """The cells of a recurrent layer, forward before backward and lower before upper."""
    if hasattr(layer, "forward_layer"):
        return [*cells(layer.forward_layer), *cells(layer.backward_layer)]
    return getattr(layer.cell, "cells", [layer.cell])


def draw(model, found, random):
    """Gives a model random weights; returns those of the recurrent layers and what they compute."""
    model.set_weights([random.normal(0, 0.5, each.shape) for each in model.get_weights()])
    arrays = {}
    for name, layer in found.items():
        weights = [array for cell in cells(layer) for array in cell.get_weights()]
        arrays |= {f"{name}:{index}": array for index, array in enumerate(weights)}
        x = random.normal(size=(3, 6, len(weights[0]))).astype("float32")
        arrays |= {f"{name}:x": x, f"{name}:y": np.asarray(layer(x))}
    return arrays


def main():
    """Writes all files of one release."""
    folder = pathlib.Path(sys.argv[1]) / f"{keras.__name__}-{keras.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(27)
    model, found = functional()
    arrays = draw(model, found, random)
    for suffix in (".keras", ".h5"):
        model.save(folder / f"functional{suffix}")
    model.save_weights(folder / "functional.weights.h5")
    subclassed = Subclassed(name="subclassed")
    subclassed(np.zeros((1, 6, 4), "float32"))
    first, (second, third) = subclassed.first, subclassed.blocks
    found = {"first_gru": first, "second_gru": second, "third": third}
    arrays |= draw(subclassed, found, random)
    subclassed.save(folder / "subclassed.keras")
    subclassed.save_weights(folder / "subclassed.weights.h5")
    if int(keras.__version__[0]) < 3:
        model.save_weights(folder / "functional_weights.h5")
        subclassed.save_weights(folder / "subclassed_weights.h5")
    np.savez_compressed(folder / "arrays.npz", **arrays)


if __name__ == "__main__":
    main()
