"""gruflax: the GRU for JAX, as pure functions and Flax modules, exact against Keras."""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

# At run time a name is imported when it is first used, so that the functional core is imported
# without Flax, and a command can handle Ctrl-C before it imports JAX.
# ruff: noqa: F403, F405
if TYPE_CHECKING:
    from gruflax.functional import *
    from gruflax.linen import *


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
