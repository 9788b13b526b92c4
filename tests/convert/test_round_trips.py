"""Random models through every format: what comes back is what was there, a seeded fuzz."""

import os
import re

import jax.numpy as jnp
import keras
import numpy as np
import onnxruntime
import pytest

from gruflax import convert
from gruflax.linen import Bidirectional


layers = keras.layers

# `GRUFLAX_ROUND_TRIPS=200` runs that many models, and not only the first few.
COUNT = int(os.environ.get("GRUFLAX_ROUND_TRIPS", "4"))

NAMES = ("gru", "gru_1", "forward_gru", "backward_gru", "gru_cell", "Encoder 2", "größe", "cells")
DTYPES = ("float32", "float32", "float32", "float16", "bfloat16", "mixed_bfloat16")
ACTIVATIONS = ("tanh", "tanh", "relu", "softsign", "elu", "leaky_relu", None)

pytestmark = pytest.mark.filterwarnings("ignore")


class Maker:
    """Draws random Keras models, and remembers their recurrent layers by their full names."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.dtype = self.pick(*DTYPES)
        self.layers = {}

    def pick(self, *values):
        return values[self.random.integers(len(values))]

    def options(self, dtype="float32"):
        """Arguments of a GRU or a GRUCell."""
        # Some of Keras' functions return float32 for 16 bits, which its own loop refuses.
        activation = self.pick(*ACTIVATIONS[: None if dtype == "float32" else 3])
        recurrent = self.pick("sigmoid", "sigmoid", "hard_sigmoid")
        recurrent = recurrent if dtype == "float32" else "sigmoid"
        if self.random.random() < 0.2:
            activation = layers.LeakyReLU(negative_slope=0.25, dtype=dtype)
        return {
            "units": int(self.random.integers(1, 6)),
            "reset_after": self.pick(True, False),
            "use_bias": self.pick(True, True, False),
            "activation": activation,
            "recurrent_activation": recurrent,
            "dropout": self.pick(0.0, 0.3),
            # Keras' default cannot draw numbers of 16 bits.
            "recurrent_initializer": "glorot_uniform",
        }

    def direction(self, name):
        """A GRU, or an RNN of one cell or of several, of which some do not learn."""
        how = {
            "return_sequences": True,
            "go_backwards": self.pick(False, False, True),
            "name": name,
        }
        if self.random.random() < 0.6:
            return layers.GRU(**self.options(self.dtype) | how, dtype=self.dtype)
        cells = [layers.GRUCell(**self.options()) for _ in range(self.random.integers(1, 4))]
        for cell in cells:
            cell.trainable = self.pick(True, True, False)
        return layers.RNN(cells if len(cells) > 1 else cells[0], **how)

    def layer(self, name):
        """A layer that runs in one direction or in both."""
        inner = self.direction(name)
        if self.random.random() < 0.5:
            return inner
        inner.go_backwards = False
        both = layers.Bidirectional(
            inner, self.pick("concat", "sum", "ave"), name=name, dtype=inner.dtype_policy
        )
        both.forward_layer.trainable = self.pick(True, False)
        return both

    def model(self, depth, names=(), features=None):
        """A Sequential of layers, and of such models inside of it."""
        parts = [] if features is None else [keras.Input((5, features))]
        # What is not recurrent comes between.
        parts.append(layers.LSTM(3, return_sequences=True, name="lstm"))
        for name in self.random.permutation(NAMES)[: self.random.integers(1, 3)]:
            if depth and self.random.random() < 0.5:
                part = self.model(depth - 1, (*names, f"in {name}"))
                parts.append(part)
                continue
            layer = self.layer(str(name))
            self.layers["/".join((*names, str(name)))] = layer
            parts.append(layer)
        name = names[-1] if names else "model"
        return keras.Sequential(parts, name=name)


def cells(layer):
    """The cells of a recurrent layer, forward before backward and lower before upper."""
    if hasattr(layer, "forward_layer"):
        return [*cells(layer.forward_layer), *cells(layer.backward_layer)]
    return getattr(layer.cell, "cells", [layer.cell])


def sources(model, folder):
    """The model itself and its files."""
    yield model
    for suffix in (".keras", ".h5", ".weights.h5"):
        path = folder / f"model{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(path)
        yield path


def as_they_come_back(module, variables, theirs, x):
    """The outputs of a layer after its way to Keras, and to ONNX and torch where these have it."""
    again = type(theirs).from_config(module.get_config())
    again.build(x.shape)
    again.set_weights(convert.to_keras(module, variables))
    yield "keras", np.asarray(again(x))
    try:
        model = convert.to_onnx(module, variables, opset=22)
    except (TypeError, ValueError) as error:
        assert re.search("must be one that ONNX has|for ONNX|RNN of one GRUCell", str(error))
    else:
        if theirs.compute_dtype != "bfloat16":
            session = onnxruntime.InferenceSession(model.SerializeToString())
            yield "onnxruntime", session.run(None, {"inputs": x})[0]
        names = [node.name for node in model.graph.node if node.op_type == "GRU"]
        # ONNX's nodes do not merge directions, nor return what goes backwards in reversed order.
        if not (isinstance(module, Bidirectional) or (module.go_backwards and len(names) > 1)):
            back, weights = convert.from_onnx(model, names, time_major=False)
            yield "onnx", np.asarray(back.apply(weights, x))
    try:
        arrays = convert.to_torch(module, variables)
    except (TypeError, ValueError) as error:
        assert re.search("torch has no|torch has one|RNN of one GRUCell", str(error))
    else:
        back, weights = convert.from_torch(arrays, batch_first=True, dtype=theirs.compute_dtype)
        yield "torch", np.asarray(back.apply(weights, x))


@pytest.mark.parametrize("seed", range(COUNT))
def test_everything_that_loads(seed, tmp_path, equal):
    maker = Maker(seed)
    model = maker.model(2, features=4)
    random = maker.random
    model.set_weights([0.4 * random.normal(size=each.shape) for each in model.get_weights()])
    found = list(sources(model, tmp_path))
    for name, theirs in maker.layers.items():
        weights = [np.asarray(each) for cell in cells(theirs) for each in cell.weights]
        dtype = jnp.dtype(theirs.compute_dtype)
        x = random.normal(size=(3, 5, len(weights[0]))).astype(dtype)
        try:
            wanted = np.asarray(theirs(x))
        except TypeError:
            # Keras' own loop refuses what some of its functions make of 16 bits.
            assert dtype != "float32"
            continue
        close = {"rtol": 20 * float(jnp.finfo(dtype).eps), "atol": 20 * float(jnp.finfo(dtype).eps)}
        for source in found:
            nameless = str(source).endswith(".weights.h5")
            own = name.split("/")[-1]
            if nameless and sum(each.split("/")[-1] == own for each in maker.layers) > 1:
                continue
            module, variables = convert.from_keras(source, own if nameless else name)
            equal(convert.to_keras(module, variables), weights)
            if not nameless:
                np.testing.assert_allclose(module.apply(variables, x), wanted, **close)
        module, variables = convert.from_keras(model, name)
        for library, outputs in as_they_come_back(module, variables, theirs, x):
            assert outputs.dtype == dtype, library
            np.testing.assert_allclose(outputs, wanted, **close, err_msg=library)
