"""Finding a GRU in a PyTorch model or state_dict, and computing its weights as torch does."""

import contextlib
import copy
import functools
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np


# The tensors that a weight is computed from, by the ends of their names: {"_g": ..., "_v": ...}. A
# weight that is stored as it is has one, of which the end is "".
Ends: TypeAlias = Mapping[str, object]

_NAME = re.compile(
    r"(?P<prefix>.*?)(?<!_packed_)(parametrizations\.)?"
    r"(?P<weight>(weight|bias)_(ih|hh)(_l\d+(_reverse)?)?)(?P<end>|[._].+)"
)


def read_gru(source: object, prefix: str) -> tuple[dict[str, np.ndarray], object]:
    """Finds the GRU at or under a prefix: its arrays by torch's names, and the live module."""
    state_dict = getattr(source, "state_dict", source)
    state_dict = state_dict() if callable(state_dict) else state_dict
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"source must be a torch module or its state_dict, got {type(source).__name__}."
        )
    cells: dict[str, dict[str, dict[str, object]]] = {}
    for name, value in state_dict.items():
        if found := _NAME.fullmatch(str(name)):
            weights = cells.setdefault(found["prefix"], {})
            weights.setdefault(found["weight"], {})[found["end"]] = value
    kinds = {each: _kind(weights) for each, weights in cells.items()}
    prefix = _pick(kinds, prefix, list(map(str, state_dict)))
    gru = _submodule(source, prefix)
    return {name: _weight(gru, name, tensors) for name, tensors in cells[prefix].items()}, gru


def options_of(gru: object) -> tuple[bool | None, float | None]:
    """Reads batch_first and dropout of a live module, None where it does not know them."""
    batch_first, dropout = (getattr(gru, name, None) for name in ("batch_first", "dropout"))
    if batch_first is None:
        # A traced module has lost its attributes; they are constants of the call in its graph. It
        # has no graph, and raises a RuntimeError, where the traced model did not call it.
        with contextlib.suppress(RuntimeError):
            graph = getattr(gru, "graph", None)
            node = getattr(graph, "findNode", lambda kind: None)("aten::gru")
            # The variant of this operator for packed sequences does not have batch_first.
            if node is not None and "batch_first" in node.schema():
                *_, dropout, _, _, batch_first = (each.toIValue() for each in node.inputs())
    return batch_first, dropout


def as_array(value: object) -> np.ndarray:
    """Copies a tensor of any device and dtype to an array; other values become arrays."""
    detach = getattr(value, "detach", None)
    if detach is None:
        return np.asarray(value)
    tensor = detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        # NumPy takes no tensor of this dtype; float32 holds all of its numbers.
        return np.asarray(tensor.float()).astype(jnp.bfloat16)
    return np.asarray(tensor)


def _submodule(source: object, prefix: str) -> object:
    """Returns the live module of a prefix like "encoder.gru.", or None."""
    owners = prefix.split(".")[:-1]
    return functools.reduce(lambda owner, name: getattr(owner, name, None), owners, source)


def _kind(weights: Mapping[str, Ends]) -> str:
    """Tells a GRU's weight_hh [3u, u] from an LSTM's [4u, u] and an RNN's [u, u]; "" for none."""
    if not {"weight_ih", "weight_ih_l0"} & set(weights):
        return ""
    tensors = weights.get("weight_hh_l0", weights.get("weight_hh", {}))
    whole = next((tensors[ends[0]] for ends in _COMPUTED if ends[0] in tensors), None)
    shape = getattr(whole, "shape", ())
    if len(shape) == 2 and shape[0] == shape[1]:
        return "RNN"
    return "LSTM" if len(shape) == 2 and shape[0] >= 4 * shape[1] else "GRU"


def _pick(kinds: Mapping[str, str], prefix: str, names: list[str]) -> str:
    """Returns the prefix of the only GRU at a prefix, or else of the only one that has it within.

    What has it within are GRUs in the module of that prefix, and in wrappers around that module.
    """
    grus = [each for each, kind in kinds.items() if kind == "GRU"]
    within = f".{prefix}".rstrip(".") + "."
    found = [each for each in grus if each in (prefix, f"{prefix}.")]
    found = found or [each for each in grus if within in f".{each}"]
    if len(found) == 1:
        return found[0]
    if grus:
        raise ValueError(f"prefix must name one GRU of source, of {grus}, got {prefix!r}.")
    others = [f"{kind} {each!r}" for each, kind in kinds.items() if kind]
    if others:
        raise ValueError(
            f"source must hold a torch.nn.GRU or GRUCell, got what looks like {', '.join(others)}."
        )
    if any("_packed_" in name or "_all_weight_values" in name for name in names):
        raise ValueError(
            "source must hold weights that are floats, got packed ones of a quantized model: hand "
            "in the model that was quantized."
        )
    raise ValueError(
        "source must hold weight_ih_l0 of a torch.nn.GRU, or weight_ih of a GRUCell, with or "
        f"without a prefix, got {names}. See prefix."
    )


def _weight(gru: object, name: str, tensors: Ends) -> np.ndarray:
    """Computes a weight from its tensors, as torch does in eval mode."""
    parametrizations = getattr(gru, "parametrizations", {})
    if isinstance(getattr(type(gru), name, None), property) and name in parametrizations:
        # torch.nn.utils.parametrize computes it; in training mode that may change the module.
        return as_array(copy.deepcopy(parametrizations[name]).eval()())
    ends = next((ends for ends in _COMPUTED if set(ends) == set(tensors)), None)
    if ends is None or _submodule(gru, f"parametrizations.{name}.1.") is not None:
        raise ValueError(
            f"source computes {name} from {[name + end for end in sorted(tensors)]}, which do not "
            "tell how: hand in the live module, or first make it a plain weight, as "
            "torch.nn.utils.parametrize.remove_parametrizations does."
        )
    try:
        arrays = [as_array(tensors[end]) for end in ends]
        if not all(jnp.issubdtype(each.dtype, jnp.floating) for each in arrays):
            raise TypeError(f"got tensors of {[str(each.dtype) for each in arrays]}, not floats.")
        if len(arrays) == 1:
            return arrays[0]
        exact = (each.astype(np.float64) for each in arrays)
        return _COMPUTED[ends](*exact).astype(arrays[0].dtype).reshape(arrays[0].shape)
    except Exception as error:
        # Tensors without data, or of dtypes that NumPy lacks, raise exceptions of many kinds.
        raise ValueError(f"source must hold a {name} that can be read: {error}") from error


def _weight_norm(weight: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Gives a weight other norms, which have size 1 along the axes that they are taken over."""
    axes = tuple(axis for axis in range(weight.ndim) if not norms.ndim or norms.shape[axis] == 1)
    lengths = np.sqrt(np.square(weight).sum(axes, keepdims=True))
    return weight * (norms.reshape(lengths.shape) / lengths)


def _spectral_norm(weight: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Divides a matrix by its norm, which two singular vectors give."""
    if left.shape == right.shape:
        raise ValueError(
            "the spectral norm of a square weight does not tell its dim: first make it a plain "
            "weight by torch.nn.utils.remove_spectral_norm."
        )
    return weight / (left @ (weight if len(left) == len(weight) else weight.T) @ right)


# How a weight is computed, by the ends of its tensors' names, that of its own shape first: what
# prune, spectral_norm and weight_norm of torch.nn.utils leave, and the parametrizations of the same
# names.
_COMPUTED: Mapping[tuple[str, ...], Callable[..., np.ndarray]] = {
    ("",): np.asarray,
    ("_orig", "_mask"): np.multiply,
    ("_orig", "_u", "_v"): _spectral_norm,
    (".original", ".0._u", ".0._v"): _spectral_norm,
    ("_v", "_g"): _weight_norm,
    (".original1", ".original0"): _weight_norm,
}
