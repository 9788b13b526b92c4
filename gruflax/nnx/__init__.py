"""Keras' GRU layers as native `flax.nnx` modules over `gruflax.functional`."""

from gruflax.nnx.gru import GRU, GRUCell
from gruflax.nnx.layer import ActivityLoss
from gruflax.nnx.rnn import RNN, StackedRNNCells
from gruflax.nnx.state import (
    RecurrentState,
    forget_states,
    from_linen_variables,
    reset_states,
    to_linen_variables,
)
from gruflax.nnx.training import apply_constraints, total_loss
from gruflax.nnx.wrappers import Bidirectional, Stack


__all__ = [
    "GRU",
    "RNN",
    "ActivityLoss",
    "Bidirectional",
    "GRUCell",
    "RecurrentState",
    "Stack",
    "StackedRNNCells",
    "apply_constraints",
    "forget_states",
    "from_linen_variables",
    "reset_states",
    "to_linen_variables",
    "total_loss",
]
