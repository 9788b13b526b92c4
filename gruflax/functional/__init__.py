"""The GRU as pure functions over JAX and NumPy arrays; they know nothing of Flax."""

from gruflax.functional.activations import get_activation as get_activation
from gruflax.functional.config import GRUConfig as GRUConfig
from gruflax.functional.dropout import (
    DropoutMasks as DropoutMasks,
    draw_dropout_masks as draw_dropout_masks,
    dropout_mask as dropout_mask,
)
from gruflax.functional.gates import (
    GateActivations as GateActivations,
    gate_activations as gate_activations,
)
from gruflax.functional.loops.choice import (
    LoopChoice as LoopChoice,
    explain_loop as explain_loop,
)
from gruflax.functional.loops.native.library import (
    NativeInfo as NativeInfo,
    native_info as native_info,
)
from gruflax.functional.masks import (
    lengths_to_mask as lengths_to_mask,
    mask_to_lengths as mask_to_lengths,
)
from gruflax.functional.params import init_gru_params as init_gru_params
from gruflax.functional.sequence import gru_sequence as gru_sequence
from gruflax.functional.step import gru_cell_step as gru_cell_step
