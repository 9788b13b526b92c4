"""`tf.compat.v1.keras.layers.GRUCell` and `GRU`, of TensorFlow 1.15, 2.0 and 2.2."""

from gruflax.compat.v1.common import hard_sigmoid
from gruflax.compat.v1.gru import GRU, GRUCell


__all__ = ["GRU", "GRUCell", "hard_sigmoid"]
