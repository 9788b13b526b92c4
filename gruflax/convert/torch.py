"""Converting PyTorch's `torch.nn.GRU` and `torch.nn.GRUCell`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruflax.convert.assembly import Layer, Part, make_layer, parts, stack
from gruflax.convert.cells import (
    CELLS,
    Cell,
    arrays_of,
    check_representable,
    find_arrays,
    params_of,
    write_cell,
)
from gruflax.convert.torch_sources import options_of, read_gru
from gruflax.convert.weights import Fields, Nested, Params
from gruflax.linen import GRU, RNN, Bidirectional, GRUCell, Stack


_CELL = CELLS["torch"]


def from_torch(
    source: object,
    *,
    prefix: str = "",
    batch_first: bool | None = None,
    dropout: float | None = None,
    **fields: Any,
) -> Layer | Params:
    """Converts a `torch.nn.GRU` to a layer, or a `torch.nn.GRUCell` to params; exact, bit by bit.

    Gates are reordered and matrices transposed. Several layers become a `gruflax.Stack`, two
    directions a `gruflax.Bidirectional`; all of them return sequences, as torch's do. What torch
    computes from a packed sequence is what the layer computes with `seq_lengths`: outputs after the
    end of a sequence are zeros (`zero_output_for_mask=True`), states are those at its end.
    `from_torch_state` and `to_torch_state` convert the states, torch's h_0 and h_n.

    For example::

        gru, variables = from_torch(torch_gru)
        outputs = gru.apply(variables, x)

    Weights are those of eval mode. Weights under `weight_norm`, `spectral_norm` and the pruning of
    `torch.nn.utils`, old or new, are computed as torch does. Other parametrizations can only be
    computed by the live module. The module itself is not changed.

    Args:
        source: a live module, which may be the GRU or hold it, scripted, traced, compiled or
            `DataParallel` too; or its `state_dict()`, or a dict of its `named_parameters()`, with
            tensors or arrays. Floats of any dtype: `param_dtype` is theirs.
        prefix: the name of the GRU in `source`, for example "encoder.gru", or of a module that
            holds it. Needed only where `source` is no GRU itself and holds several. Wrappers, as
            "module." of `DataParallel`, may be left out.
        batch_first: True for inputs `[b, t, f]`, False for `[t, b, f]`. None, the default, takes it
            from a live module; for a dict it is False, torch's default.
        dropout: the dropout rate between layers. None, the default, takes it from a live module;
            for a dict it is 0.
        **fields: other fields of each `gruflax.GRU`.

    Returns:
        For a GRU, `(module, variables)`. For a GRUCell, the params `kernel` [f, 3u],
        `recurrent_kernel` [u, 3u] and `bias` [2, 3u] or absent.

    Raises:
        TypeError: `source` is neither a module nor a mapping.
        ValueError: `source` holds no GRU (an LSTM, an RNN and a quantized GRU are none) or several
            and no `prefix`; its names or shapes are not those of a GRU; a dict does not tell how a
            weight is computed; or a live module, as an exported one, does not tell `batch_first` or
            `dropout`.
    """
    arrays, gru = read_gru(source, prefix)
    if _CELL.paths[0] in arrays:
        if fields:
            raise TypeError(f"params of a cell have no fields, got {sorted(fields)}.")
        return _direction(arrays, "")
    known = (False, 0.0) if isinstance(source, Mapping) else options_of(gru)
    batch_first = known[0] if batch_first is None else batch_first
    dropout = known[1] if dropout is None else dropout
    if batch_first is None or dropout is None:
        raise ValueError(
            "source is a live module that does not tell its batch_first and dropout: give "
            "batch_first= and dropout= to from_torch."
        )
    fields = {
        "return_sequences": True,
        "time_major": not batch_first,
        "zero_output_for_mask": True,
    } | fields
    levels = {name.removesuffix("_reverse").rpartition("_")[2] for name in arrays}
    names = [f"_l{index}" for index in range(len(levels))]
    return stack([_layer(arrays, name, fields) for name in names], dropout)


def to_torch(
    source: GRU | RNN | GRUCell | Bidirectional | Stack | Nested, variables: Nested | None = None
) -> dict[str, np.ndarray]:
    """Converts to the state_dict of a `torch.nn.GRU` or `torch.nn.GRUCell`; exact, bit by bit.

    Arrays keep their dtype. bfloat16 is unknown to `torch.from_numpy`; it goes by float32, as
    `torch.from_numpy(v.astype("float32")).bfloat16()`.

    For example::

        state_dict = to_torch(gru, variables)
        torch_gru = torch.nn.GRU(12, 64, batch_first=True)
        torch_gru.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})

    Args:
        source: a `gruflax.GRU`, an `RNN` of `GRUCell`s, one or several, a `Bidirectional` of a GRU
            or of an RNN of one GRUCell with `merge_mode="concat"`, or a `Stack` of these, for a
            `torch.nn.GRU`; bare params or a `gruflax.GRUCell` for a GRUCell.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        `weight_ih_l0` [3u, f], `weight_hh_l0` [3u, u], `bias_ih_l0` [3u], ...; of a cell the same
        names without `_l0`. A GRU without a bias is a torch GRU with `bias=False`.

    Raises:
        TypeError: `source` is of another type.
        ValueError: torch has no such GRU: `reset_after=False`, other activations than tanh and
            sigmoid, `go_backwards`, another merge mode, a learned initial state, or layers that
            differ in units, biases or directions.
    """
    if variables is None or isinstance(source, GRUCell):
        return _present(write_cell("torch", source, variables))
    layers = parts(source, variables)
    for layer in layers:
        _check(layer, layers[0])
    return {
        name: array
        for index, layer in enumerate(layers)
        for weights, suffix in zip(layer.weights, ("", "_reverse"), strict=False)
        for name, array in _present(arrays_of(_named(f"_l{index}{suffix}"), weights)).items()
    }


def _layer(arrays: Mapping[str, np.ndarray], name: str, fields: Fields) -> Layer:
    """Makes one layer, in one direction or both."""
    both = any(each.endswith("_reverse") for each in arrays)
    suffixes = (name, f"{name}_reverse") if both else (name,)
    return make_layer([(_direction(arrays, suffix), fields) for suffix in suffixes])


def _direction(arrays: Mapping[str, np.ndarray], suffix: str) -> Params:
    """Makes the parameters of one direction of one layer."""
    cell = _named(suffix)
    biased = any(name.startswith("bias") for name in arrays)
    absent = {} if biased else dict.fromkeys(cell.paths[2:])
    found = find_arrays(cell, {**arrays, **absent})
    try:
        return params_of(cell, found)
    except (IndexError, ValueError) as error:
        shapes = {path: arrays[path].shape for path in cell.paths if path in arrays}
        raise ValueError(f"the state_dict must have the shapes of a GRU, got {shapes}.") from error


def _named(suffix: str) -> Cell:
    """Returns torch's row of the table, with a suffix like "_l0_reverse" at the end of names."""
    return _CELL._replace(paths=tuple(f"{path}{suffix}" for path in _CELL.paths))


def _present(arrays: Params) -> dict[str, np.ndarray]:
    """Leaves out the biases that are None, as torch does with bias=False."""
    return {name: array for name, array in arrays.items() if array is not None}


def _check(layer: Part, first: Part) -> None:
    """Raises a ValueError unless torch can have this layer in the same GRU as the first one."""
    for weights in layer.weights:
        check_representable(_CELL, weights)
    if layer.directions[0].go_backwards:
        raise ValueError("torch has no GRU that goes backwards first: go_backwards must be False.")
    if len(layer.directions) == 2 and layer.merge_mode != "concat":
        raise ValueError(f"torch has no GRU with merge_mode={layer.merge_mode!r}, only 'concat'.")
    shapes = {(each.units, each.config.use_bias) for each in (*first.weights, *layer.weights)}
    if len(shapes) > 1 or len(layer.directions) != len(first.directions):
        raise ValueError(
            "torch has one number of units, use_bias and number of directions for all layers of a "
            f"GRU, got (units, use_bias) {sorted(shapes)} and "
            f"{[len(each.directions) for each in (first, layer)]} directions."
        )
