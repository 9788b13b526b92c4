"""Makes the model files of Keras 1.2.2 or 2.2.5: `python make_keras1_files.py FOLDER SOURCES`.

SOURCES is the unpacked source distribution of that Keras. It runs on TensorFlow 2.12, which has
what it needs of TensorFlow 1 under other names. `keras_files.zip` has the folders that this makes.
"""

import collections.abc
import inspect
import pathlib
import sys

import numpy as np
import tensorflow
from tensorflow.python.framework import ops


def as_they_were():
    """Puts back what NumPy, Python and TensorFlow have renamed since."""
    for kind in (bool, int, float, object):
        setattr(np, kind.__name__, kind)
    collections.Iterable = collections.abc.Iterable
    kind = collections.namedtuple("ArgSpec", "args varargs keywords defaults")
    inspect.getargspec = lambda function: kind(*inspect.getfullargspec(function)[:4])
    ops._TensorLike = ops.Tensor
    ops.is_dense_tensor_like = lambda value: isinstance(value, ops.Tensor)
    old = tensorflow.compat.v1
    old.disable_v2_behavior()
    sys.modules["tensorflow"] = old
    for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
        del sys.modules[name]
    sys.path.insert(0, sys.argv[2])


as_they_were()

import keras  # noqa: E402
from keras import layers  # noqa: E402


FIRST = keras.__version__ < "2"


def gru(units, consume_less, name=None, **options):
    """A GRU whose weights are one array for each gate ("cpu"), or one for all ("gpu")."""
    if FIRST:
        options |= {"consume_less": consume_less, "W_regularizer": keras.regularizers.l2(0.01)}
    name = {"name": name} if name else {}
    return layers.GRU(units, return_sequences=True, **name, **options)


def arrays_of(layer):
    """The weights of a GRU: kernel, recurrent kernel, bias."""
    values = dict(zip([each.name for each in layer.weights], layer.get_weights(), strict=True))
    if not FIRST or len(values) == 3:
        return list(values.values())
    return [np.concatenate(list(values.values())[index::3], axis=-1) for index in range(3)]


def main():
    """Writes a model and its weights, and what its layers hold and compute."""
    folder = pathlib.Path(sys.argv[1]) / f"keras-{keras.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(27)
    shape = {"input_shape": (6, 4)}
    inner = keras.models.Sequential([gru(4, "gpu", "inside", **shape)])
    found = {
        "lower": gru(4, "cpu", "lower", **shape),
        "inside": inner.layers[0],
        "pair": layers.Bidirectional(gru(2, "cpu"), name="pair"),
        "upper": gru(3, "gpu", "upper", activation="relu", go_backwards=True),
    }
    if not FIRST:
        cells = [layers.GRUCell(3), layers.GRUCell(3, reset_after=True)]
        found["deep"] = layers.RNN(cells, return_sequences=True, name="deep")
    order = [inner if name == "inside" else layer for name, layer in found.items()]
    model = keras.models.Sequential(order)
    model.compile("sgd", "mse")
    model.set_weights([random.normal(0, 0.5, each.shape) for each in model.get_weights()])
    outputs = [layer.get_output_at(-1) for layer in order]
    x = random.normal(size=(3, 6, 4)).astype("float32")
    values = keras.backend.function([model.input], outputs)([x])
    arrays = {}
    for (name, layer), inputs, results in zip(found.items(), [x, *values], values, strict=False):
        parts = [layer]
        if name == "pair":
            parts = [layer.forward_layer, layer.backward_layer]
        weights = [array for part in parts for array in arrays_of(part)]
        arrays.update({f"{name}:{index}": array for index, array in enumerate(weights)})
        arrays.update({f"{name}:x": inputs, f"{name}:y": results})
    model.save(str(folder / "functional.h5"))
    model.save_weights(str(folder / "functional_weights.h5"))
    np.savez_compressed(folder / "arrays.npz", **arrays)


if __name__ == "__main__":
    main()
