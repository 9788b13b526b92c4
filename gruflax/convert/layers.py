"""Whole layers: stacks and pairs put together from weights, and taken apart again."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from gruflax.convert.gates import Params, Weights, weights_of
from gruflax.linen import GRU, Bidirectional, Stack


Layer = tuple[nn.Module, dict[str, Any]]


class Part(NamedTuple):
    """One layer of a stack.

    Attributes:
        directions: one GRU, or the forward and the backward one of a pair.
        weights: of each direction.
        merge_mode: of a pair; of a single GRU it says nothing.
    """

    directions: list[GRU]
    weights: list[Weights]
    merge_mode: str | None = "concat"


def single(params: Params, **fields: Any) -> Layer:
    """Makes a GRU layer for parameters."""
    return GRU(**_sizes(params), **fields), {"params": params}


def pair(forward: Params, backward: Params, merge_mode: str | None, **fields: Any) -> Layer:
    """Makes a bidirectional layer for the parameters of both directions."""
    layer = GRU(**_sizes(forward), **fields)
    other = layer.clone(**(_sizes(backward) | fields)).clone(go_backwards=not layer.go_backwards)
    module = Bidirectional(layer, merge_mode, other)
    return module, {"params": {"forward_layer": forward, "backward_layer": backward}}


def stack(layers: Sequence[Layer], dropout: float = 0.0) -> Layer:
    """Puts layers on top of each other."""
    if len(layers) == 1:
        return layers[0]
    modules, variables = zip(*layers, strict=True)
    params = {f"layers_{index}": each["params"] for index, each in enumerate(variables)}
    return Stack(modules, dropout), {"params": params}


def parts(module: Any, variables: Mapping[str, Any]) -> list[Part]:
    """Takes a layer apart."""
    if isinstance(module, Stack):
        names = [f"layers_{index}" for index in range(len(module.layers))]
        return [
            _part(layer, child(variables, name))
            for layer, name in zip(module.layers, names, strict=True)
        ]
    return [_part(module, variables)]


def child(variables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Takes the params of a module's child out of those of the module."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays, got {type(variables).__name__}.")
    params = variables.get("params", variables)
    if name not in params:
        raise ValueError(f"variables must hold the params of {name!r}, got {sorted(params)}.")
    return params[name]


def _part(module: Any, variables: Mapping[str, Any]) -> Part:
    if isinstance(module, GRU):
        return Part([module], [weights_of(module, variables)])
    if isinstance(module, Bidirectional) and isinstance(module.layer, GRU):
        directions = [module.layer, module.backward_layer]
        names = ("forward_layer", "backward_layer")
        weights = [
            weights_of(gru, child(variables, name))
            for gru, name in zip(directions, names, strict=True)
        ]
        return Part(directions, weights, module.merge_mode)
    raise TypeError(
        "module must be a gruflax.GRU, a Bidirectional of GRUs or a Stack of these, got "
        f"{type(module).__name__}."
    )


def _sizes(params: Params) -> dict[str, Any]:
    """The fields of a GRU that its parameters decide, but for `reset_after` without a bias."""
    fields: dict[str, Any] = {
        "units": params["recurrent_kernel"].shape[0],
        "use_bias": "bias" in params,
        "param_dtype": params["kernel"].dtype,
    }
    if "bias" in params:
        fields["reset_after"] = params["bias"].ndim == 2
    return fields
