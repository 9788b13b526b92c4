"""Keras' GRU layers as `flax.linen` modules over `gruflax.functional`."""

from gruflax.linen.bidirectional import Bidirectional as Bidirectional
from gruflax.linen.cell import GRUCell as GRUCell
from gruflax.linen.gru import GRU as GRU
from gruflax.linen.rnn import RNN as RNN
from gruflax.linen.stack import Stack as Stack
from gruflax.linen.stacked_cells import StackedRNNCells as StackedRNNCells
from gruflax.linen.state import forget_states as forget_states, reset_states as reset_states
from gruflax.linen.training import constraints as constraints, total_loss as total_loss
