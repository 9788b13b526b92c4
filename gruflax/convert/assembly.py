"""Making whole layers (a GRU, a Bidirectional, a Stack) from weights, and taking them apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from gruflax.convert.weights import Fields, Nested, Params, Weights, check_fits, weights_of
from gruflax.functional.checks import brief
from gruflax.layers.stacking import steps_as
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack, StackedRNNCells


# A module and its variables.
Layer: TypeAlias = tuple[GRU | RNN | Bidirectional | Stack, dict[str, Params]]

_NAMES = ("forward_layer", "backward_layer")


class Part(NamedTuple):
    """One layer of a stack.

    Attributes:
        directions: one GRU, or the forward and the backward GRU of a Bidirectional.
        weights: the weights of each direction.
        merge_mode: of the Bidirectional; without meaning for a single GRU.
        reordered: whether the outputs of a GRU that goes backwards are put back into the order of
            its inputs, as between the cells of StackedRNNCells.
    """

    directions: list[GRU]
    weights: list[Weights]
    merge_mode: str | None = "concat"
    reordered: bool = False


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


def parts(module: object, variables: Nested, learned_state: bool = False) -> list[Part]:
    """Takes a GRU, an RNN of GRUCells, a Bidirectional or a Stack apart: a Part for each layer.

    Each GRUCell is a layer, its Part a GRU that computes the same. `learned_state` says whether
    they may have an initial state that is learned.
    """
    if variables is None:
        raise TypeError("variables must be a dict of arrays, got None.")
    if isinstance(module, GRU):
        return [Part([module], [weights_of(module, variables, learned_state)])]
    if isinstance(module, RNN):
        return _cells(module, child(variables, "cell"), learned_state)
    if isinstance(module, Stack):
        layers = [
            parts(layer, child(variables, f"layers_{index}"), learned_state)
            for index, layer in enumerate(module.layers)
        ]
        return [part for layer in layers for part in layer]
    if isinstance(module, Bidirectional):
        forward, backward = (
            parts(layer, child(variables, name), learned_state)
            for layer, name in zip((module.layer, module.backward_layer), _NAMES, strict=True)
        )
        if len(forward) == len(backward) == 1:
            (one,), (other,) = forward, backward
            both = one.directions + other.directions
            return [Part(both, one.weights + other.weights, module.merge_mode)]
    raise _not_a_gru(module)


def _cells(rnn: RNN, variables: Nested, learned_state: bool) -> list[Part]:
    """Makes a Part of each cell of an RNN."""
    cells, found = [(rnn.step_cell, variables)], []
    if isinstance(rnn.step_cell, StackedRNNCells):
        cells = [
            (cell, child(variables, f"cells_{index}"))
            for index, cell in enumerate(rnn.step_cell.cells)
        ]
    for cell, params in cells:
        if not isinstance(cell, GRUCell) or not steps_as(cell, GRUCell):
            raise _not_a_gru(rnn)
        weights = weights_of(cell, params, learned_state)
        fields = {
            field.name: getattr(owner, field.name)
            for owner in (rnn, cell)
            for field in dataclasses.fields(GRU)
            if field.name not in ("name", "parent") and hasattr(owner, field.name)
        }
        below = len(found) < len(cells) - 1
        fields["return_sequences"] = rnn.return_sequences or below
        found.append(Part([GRU(**fields)], [weights], reordered=below))
    return found


def _not_a_gru(module: object) -> TypeError:
    return TypeError(
        "module must be a gruflax.GRU, an RNN of GRUCells, a Bidirectional of a GRU or of an RNN "
        f"of one GRUCell, or a Stack of these, got {brief(module)}."
    )


def child(variables: Nested, name: str) -> Nested:
    """Takes the params of a child module out of the variables of its owner."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays, got {type(variables).__name__}.")
    params = variables.get("params", variables)
    if name not in params:
        raise ValueError(f"variables must hold the params of {name!r}, got {sorted(params)}.")
    return params[name]


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
