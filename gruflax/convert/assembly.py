"""Making whole layers (a GRU, a Bidirectional, a Stack) from weights, and taking them apart."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from gruflax.convert.weights import Fields, Nested, Params, Weights, check_fits, weights_of
from gruflax.linen import GRU, RNN, Bidirectional, Stack


# A module and its variables.
Layer: TypeAlias = tuple[GRU | RNN | Bidirectional | Stack, dict[str, Params]]

_NAMES = ("forward_layer", "backward_layer")


class Part(NamedTuple):
    """One layer of a stack.

    Attributes:
        directions: one GRU, or the forward and the backward GRU of a Bidirectional.
        weights: the weights of each direction.
        merge_mode: of the Bidirectional; without meaning for a single GRU.
    """

    directions: list[GRU]
    weights: list[Weights]
    merge_mode: str | None = "concat"


def make_layer(directions: Sequence[tuple[Params, Fields]]) -> Layer:
    """Makes a GRU from one pair of parameters and fields, or a Bidirectional from two."""
    grus = [GRU(**{**sizes(params), **fields}) for params, fields in directions]
    for gru, (params, _) in zip(grus, directions, strict=True):
        check_fits(gru, params)
    if len(grus) == 1:
        return grus[0], {"params": directions[0][0]}
    backward = grus[1].clone(go_backwards=not grus[0].go_backwards)
    return Bidirectional(grus[0], "concat", backward), pair_variables(*(p for p, _ in directions))


def pair_variables(forward: Params, backward: Params) -> dict[str, Params]:
    """Makes the variables of a Bidirectional from the parameters of its directions."""
    return {"params": dict(zip(_NAMES, (forward, backward), strict=True))}


def stack(layers: Sequence[Layer], dropout: float = 0.0) -> Layer:
    """Puts several layers into a Stack; a single layer is returned as it is."""
    if len(layers) == 1:
        return layers[0]
    modules, variables = zip(*layers, strict=True)
    params = {f"layers_{index}": each["params"] for index, each in enumerate(variables)}
    return Stack(modules, dropout), {"params": params}


def parts(module: object, variables: Nested) -> list[Part]:
    """Takes a GRU, a Bidirectional or a Stack apart, into one Part for each layer."""
    if variables is None:
        raise TypeError("variables must be a dict of arrays, got None.")
    if not isinstance(module, Stack):
        return [_part(module, variables)]
    return [
        _part(layer, child(variables, f"layers_{index}"))
        for index, layer in enumerate(module.layers)
    ]


def child(variables: Nested, name: str) -> Nested:
    """Takes the params of a child module out of the variables of its owner."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays, got {type(variables).__name__}.")
    params = variables.get("params", variables)
    if name not in params:
        raise ValueError(f"variables must hold the params of {name!r}, got {sorted(params)}.")
    return params[name]


def _part(module: object, variables: Nested) -> Part:
    if isinstance(module, GRU):
        return Part([module], [weights_of(module, variables)])
    if isinstance(module, Bidirectional) and isinstance(module.layer, GRU):
        directions = [module.layer, module.backward_layer]
        weights = [
            weights_of(gru, child(variables, name))
            for gru, name in zip(directions, _NAMES, strict=True)
        ]
        return Part(directions, weights, module.merge_mode)
    raise TypeError(
        "module must be a gruflax.GRU, a Bidirectional of GRUs or a Stack of these, got "
        f"{type(module).__name__}."
    )


def sizes(params: Params) -> Fields:
    """Returns the fields of a GRU that follow from its parameters.

    Without a bias, `reset_after` does not follow from them and is left out.
    """
    fields = {
        "units": params["recurrent_kernel"].shape[0],
        "use_bias": "bias" in params,
        "param_dtype": params["kernel"].dtype,
    }
    return fields | ({"reset_after": params["bias"].ndim == 2} if "bias" in params else {})
