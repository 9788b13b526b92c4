"""Keras' GRU layers as native `flax.nnx` modules over `gruflax.functional`."""

from gruflax.nnx.gru import GRU as GRU, GRUCell as GRUCell
from gruflax.nnx.layer import ActivityLoss as ActivityLoss
from gruflax.nnx.rnn import RNN as RNN, StackedRNNCells as StackedRNNCells
from gruflax.nnx.state import (
    RecurrentState as RecurrentState,
    forget_states as forget_states,
    from_linen_variables as from_linen_variables,
    reset_states as reset_states,
    to_linen_variables as to_linen_variables,
)
from gruflax.nnx.training import (
    apply_constraints as apply_constraints,
    total_loss as total_loss,
)
from gruflax.nnx.wrappers import Bidirectional as Bidirectional, Stack as Stack


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
