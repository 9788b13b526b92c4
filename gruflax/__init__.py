"""gruflax: the GRU for JAX, as pure functions and Flax modules, exact against Keras."""

from gruflax.functional import (
    DropoutMasks as DropoutMasks,
    GRUConfig as GRUConfig,
    Trace as Trace,
    draw_dropout_masks as draw_dropout_masks,
    dropout_mask as dropout_mask,
    gru_cell_step as gru_cell_step,
    gru_sequence as gru_sequence,
    init_gru_params as init_gru_params,
    lengths_to_mask as lengths_to_mask,
    mask_to_lengths as mask_to_lengths,
    trace as trace,
)
from gruflax.linen import (
    GRU as GRU,
    RNN as RNN,
    Bidirectional as Bidirectional,
    GRUCell as GRUCell,
    Stack as Stack,
    StackedRNNCells as StackedRNNCells,
    constraints as constraints,
    forget_states as forget_states,
    reset_states as reset_states,
    total_loss as total_loss,
)


__all__ = [
    "GRU",
    "RNN",
    "Bidirectional",
    "DropoutMasks",
    "GRUCell",
    "GRUConfig",
    "Stack",
    "StackedRNNCells",
    "Trace",
    "constraints",
    "draw_dropout_masks",
    "dropout_mask",
    "forget_states",
    "gru_cell_step",
    "gru_sequence",
    "init_gru_params",
    "lengths_to_mask",
    "mask_to_lengths",
    "reset_states",
    "total_loss",
    "trace",
]
