"""gruflax: the GRU for JAX, as pure functions and Flax modules, exact against Keras."""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

# At run time a name is imported when it is first used, so that the functional core is imported
# without Flax, and a command can handle Ctrl-C before it imports JAX.
if TYPE_CHECKING:
    from gruflax.functional import (
        DropoutMasks as DropoutMasks,
        GateActivations as GateActivations,
        GRUConfig as GRUConfig,
        LoopChoice as LoopChoice,
        NativeInfo as NativeInfo,
        draw_dropout_masks as draw_dropout_masks,
        dropout_mask as dropout_mask,
        explain_loop as explain_loop,
        gate_activations as gate_activations,
        gru_cell_step as gru_cell_step,
        gru_sequence as gru_sequence,
        init_gru_params as init_gru_params,
        lengths_to_mask as lengths_to_mask,
        mask_to_lengths as mask_to_lengths,
        native_info as native_info,
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
    "GateActivations",
    "LoopChoice",
    "NativeInfo",
    "Stack",
    "StackedRNNCells",
    "constraints",
    "draw_dropout_masks",
    "dropout_mask",
    "explain_loop",
    "forget_states",
    "gate_activations",
    "gru_cell_step",
    "gru_sequence",
    "init_gru_params",
    "lengths_to_mask",
    "mask_to_lengths",
    "native_info",
    "reset_states",
    "total_loss",
]

_ROOMS = ("functional", "linen")  # the packages that define the names
_MODULES = (*_ROOMS, "compat", "convert", "datasets", "hosts", "nnx", "plot")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gruflax.{name}")
    for room in _ROOMS if name in __all__ else ():
        module = importlib.import_module(f"gruflax.{room}")
        if hasattr(module, name):
            globals()[name] = getattr(module, name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
