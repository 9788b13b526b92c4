"""Weights and layers in from other libraries and out to them: NumPy in, NumPy out."""

from gruflax.convert.checkpoint import (
    load_safetensors as load_safetensors,
    save_safetensors as save_safetensors,
)
from gruflax.convert.equinox import from_equinox as from_equinox, to_equinox as to_equinox
from gruflax.convert.flax_modules import (
    from_linen as from_linen,
    from_nnx as from_nnx,
    to_linen as to_linen,
    to_nnx as to_nnx,
)
from gruflax.convert.haiku import from_haiku as from_haiku, to_haiku as to_haiku
from gruflax.convert.keras import from_keras as from_keras, to_keras as to_keras
from gruflax.convert.onnx import from_onnx as from_onnx, to_onnx as to_onnx
from gruflax.convert.torch import from_torch as from_torch, to_torch as to_torch


__all__ = [
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_torch",
    "load_safetensors",
    "save_safetensors",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_onnx",
    "to_torch",
]
