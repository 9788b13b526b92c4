"""Converters of weights and layers from other libraries and to them, as NumPy arrays."""

from gruflax.convert.cell_functions import (
    from_equinox as from_equinox,
    from_flax_linen as from_flax_linen,
    from_flax_nnx as from_flax_nnx,
    from_haiku as from_haiku,
    to_equinox as to_equinox,
    to_flax_linen as to_flax_linen,
    to_flax_nnx as to_flax_nnx,
    to_haiku as to_haiku,
)
from gruflax.convert.checkpoint import (
    load_safetensors as load_safetensors,
    save_safetensors as save_safetensors,
)
from gruflax.convert.keras import from_keras as from_keras, to_keras as to_keras
from gruflax.convert.onnx import from_onnx as from_onnx
from gruflax.convert.onnx_export import to_onnx as to_onnx
from gruflax.convert.torch import from_torch as from_torch, to_torch as to_torch
from gruflax.convert.torch_states import (
    from_torch_state as from_torch_state,
    to_torch_state as to_torch_state,
)


__all__ = [
    "from_equinox",
    "from_flax_linen",
    "from_flax_nnx",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "from_torch_state",
    "load_safetensors",
    "save_safetensors",
    "to_equinox",
    "to_flax_linen",
    "to_flax_nnx",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_torch",
    "to_torch_state",
]
