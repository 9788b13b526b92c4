"""Keras' GRU layers as `flax.linen` modules over `gruflax.functional`."""

from gruflax.linen.gru import GRU as GRU, GRUCell as GRUCell
from gruflax.linen.rnn import RNN as RNN, StackedRNNCells as StackedRNNCells
from gruflax.linen.state import forget_states as forget_states, reset_states as reset_states
from gruflax.linen.training import constraints as constraints, total_loss as total_loss
from gruflax.linen.wrappers import Bidirectional as Bidirectional, Stack as Stack
