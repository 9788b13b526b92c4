"""Keras' GRU layers as native `flax.nnx` modules over `gruflax.functional`."""

from gruflax.nnx.bidirectional import Bidirectional as Bidirectional
from gruflax.nnx.cell import GRUCell as GRUCell
from gruflax.nnx.gru import GRU as GRU
from gruflax.nnx.rnn import RNN as RNN
from gruflax.nnx.stack import Stack as Stack
from gruflax.nnx.stacked_cells import StackedRNNCells as StackedRNNCells
from gruflax.nnx.state import (
    RecurrentState as RecurrentState,
    forget_states as forget_states,
    reset_states as reset_states,
)
from gruflax.nnx.training import (
    ActivityLoss as ActivityLoss,
    apply_constraints as apply_constraints,
    total_loss as total_loss,
)
from gruflax.nnx.variables import from_linen as from_linen, to_linen as to_linen


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
    "from_linen",
    "reset_states",
    "to_linen",
    "total_loss",
]
