"""Cells for tests."""

from flax import linen as nn

import gruflax


class OwnStep(gruflax.GRUCell):
    """A GRU cell with a step of its own, so that layers run it as they run any cell."""

    @nn.compact
    def __call__(self, states, inputs, training=False):
        return super().__call__(states, inputs, training)
