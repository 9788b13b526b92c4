"""A table of libraries and where their GRU cells keep arrays, and one reader and writer for all."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gruflax.convert.weights import (
    Nested,
    Params,
    Weights,
    errors_as_value_errors,
    make_params,
    nest,
    weights_of,
)
from gruflax.keras_names import activations


# The order of the gates' columns in gruflax and Keras: update, reset, candidate. Keras calls the
# candidate h, all other libraries call it n.
ORDER = "zrn"


class Cell(NamedTuple):
    """How a library holds the parameters of its GRU cell: one row of the table.

    Attributes:
        library: the name of the library.
        argument: the name of the argument that holds the parameters, for errors.
        what: what the argument must be, for errors.
        paths: the paths, names joined by dots, of the input's matrix [f, 3u], the state's matrix
            [u, 3u], the bias [3u] and the recurrent bias; "" if the library has none. A path that
            contains `{gate}` stands for one array for each gate.
        gates: the order of the columns, in the library's letters; the candidate, n, comes last.
        transposed: whether the matrices are [3u, f] and [3u, u].
        negated: the gates that mean the opposite: "z" if 1 takes the new state and not the old one.
        two_biases: True if the recurrent bias is [3u], False if it is [u], for the candidate only.
        optional_bias: True if a cell without a bias has None in its place, False if it has zeros.
        reset_after: the `reset_after` of the library's GRU; False means that there is one bias.
        levels: the keys under which the parameters of the cell may lie, from the outside in.
    """

    library: str
    argument: str
    what: str
    paths: tuple[str, str, str, str]
    gates: str = "rzn"
    transposed: bool = False
    negated: str = ""
    two_biases: bool = False
    optional_bias: bool = False
    reset_after: bool = True
    levels: tuple[str, ...] = ()


CELLS = {
    cell.library: cell
    for cell in (
        Cell(
            library="flax.linen",
            argument="params",
            what="params of a flax.linen.GRUCell",
            paths=("i{gate}.kernel", "h{gate}.kernel", "i{gate}.bias", "hn.bias"),
            levels=("params", "cell"),
        ),
        Cell(
            library="flax.nnx",
            argument="cell",
            what="a flax.nnx.GRUCell",
            paths=("dense_i.kernel", "dense_h.kernel", "dense_i.bias", ""),
        ),
        Cell(
            library="equinox",
            argument="cell",
            what="an equinox.nn.GRUCell",
            paths=("weight_ih", "weight_hh", "bias", "bias_n"),
            transposed=True,
            optional_bias=True,
        ),
        Cell(
            library="haiku",
            argument="params",
            what="params of a haiku.GRU",
            paths=("w_i", "w_h", "b", ""),
            gates="zrn",
            negated="z",
            reset_after=False,
        ),
        Cell(
            library="torch",
            argument="source",
            what="the state_dict",
            paths=("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
            transposed=True,
            two_biases=True,
            optional_bias=True,
        ),
    )
}


def read_cell(library: str, source: object) -> Params:
    """Converts a live cell of a library, or the dicts of its arrays, to gruflax's parameters."""
    cell = CELLS[library]
    with errors_as_value_errors(f"{cell.argument} must be {cell.what}, or its arrays"):
        return params_of(cell, find_arrays(cell, source))


def write_cell(library: str, source: object, variables: Nested | None) -> Params:
    """Converts one GRU to the parameters of a library's cell, in dicts nested as its paths."""
    return arrays_of(CELLS[library], weights_of(source, variables))


def find_arrays(cell: Cell, source: object) -> list[np.ndarray | None]:
    """Finds a cell's arrays in a live object or in dicts: matrices as [f, 3u] and [u, 3u]."""
    for level in cell.levels:
        source = _member(source, level) if _has(source, level) else source
    paths = [path for each in cell.paths for path in _each_gate(cell, each)]
    names = list(dict.fromkeys(path.split(".")[0] for path in paths))
    held = [name for name in names if _has(source, name)]
    if held != names:
        held = sorted(source) if isinstance(source, Mapping) else held
        raise ValueError(
            f"{cell.argument} must be {cell.what}, or its arrays: {cell.what} must hold {names}, "
            f"got {held}, {type(source).__name__}."
        )
    return [_joined(cell, source, path) for path in cell.paths]


def _joined(cell: Cell, source: object, path: str) -> np.ndarray | None:
    """Reads the array of a path, gates side by side; None if the cell has no bias there."""
    paths = _each_gate(cell, path)
    values = [functools.reduce(_member, each.split("."), source) for each in paths]
    if not values or values[0] is None:
        return None
    arrays = map(np.asarray, values)
    return np.concatenate([each.T if cell.transposed else each for each in arrays], -1)


def params_of(cell: Cell, arrays: Sequence[np.ndarray | None]) -> Params:
    """Makes parameters from a cell's arrays, whose gates are in the order of its library."""
    kernel, recurrent_kernel, bias, second = arrays
    if bias is not None and cell.reset_after:
        # The candidate is the last gate, so a bias for it alone is padded with zeros in front.
        second = bias[:0] if second is None else second
        padding = 0 if cell.two_biases else bias.size - second.size
        bias = np.stack([bias, np.pad(second, (padding, 0))])
    given = (kernel, recurrent_kernel, bias)
    return make_params(*(_reorder(each, cell.gates, ORDER, cell.negated) for each in given))


def arrays_of(cell: Cell, weights: Weights) -> Params:
    """Makes a cell's arrays from weights, in dicts nested as the cell's paths."""
    check_representable(cell, weights)
    biases = (None, None)
    if weights.config.use_bias or not cell.optional_bias:
        biases = _biases(cell, weights)
    given = (weights.params["kernel"], weights.params["recurrent_kernel"], *biases)
    *arrays, second = (_reorder(each, ORDER, cell.gates, cell.negated) for each in given)
    if second is not None and not cell.two_biases:
        second = second[-weights.units :]
    placed = zip(cell.paths, (*arrays, second), strict=True)
    return nest(dict(pair for path, array in placed for pair in _split(cell, path, array)))


def _split(
    cell: Cell, path: str, array: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yields each path that a path of the table stands for, with its array, or with None."""
    paths = _each_gate(cell, path)
    if array is None or not paths:
        return zip(paths, [None] * len(paths), strict=True)
    parts = [each.T if cell.transposed else each for each in np.split(array, len(paths), -1)]
    return zip(paths, [np.array(each, order="C") for each in parts], strict=True)


def check_representable(cell: Cell, weights: Weights) -> None:
    """Raises a ValueError unless the only kind of GRU that a library has is this one."""
    if weights.config.reset_after != cell.reset_after:
        raise ValueError(
            f"{cell.library} has no GRU with reset_after={weights.config.reset_after}: "
            f"only reset_after={cell.reset_after} can be converted."
        )
    for field, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        given = activations.serialize(getattr(weights.config, field))
        if given != wanted:
            raise ValueError(f"{cell.library} has no GRU with {field}={given!r}: only {wanted!r}.")


def _biases(cell: Cell, weights: Weights) -> tuple[np.ndarray, np.ndarray | None]:
    """Makes the bias and the recurrent bias [3u] for a library, gates in gruflax's order."""
    bias = weights.biases()
    if not cell.reset_after:
        return bias, None
    first, second = np.array(bias)
    if not cell.two_biases:
        # The library has one bias for each of these gates; with the sum the GRU is the same.
        merged = slice(2 * weights.units)
        first[merged] += second[merged]
        second[merged] = 0
    if not cell.paths[3] and second.any():
        raise ValueError(
            f"{cell.library}.GRUCell has no recurrent bias: bias[1, 2u:] must be zeros to be "
            f"converted, got values up to {np.abs(second).max()}. flax.linen.GRUCell has one."
        )
    return first, second


def _reorder(array: np.ndarray | None, source: str, target: str, negated: str) -> np.ndarray | None:
    """Changes the order and the sign of gates along the last axis [..., 3u]; None stays None."""
    if array is None:
        return None
    blocks = dict(zip(source, np.split(array, 3, -1), strict=True))
    signed = {gate: -block if gate in negated else block for gate, block in blocks.items()}
    return np.concatenate([signed[gate] for gate in target], -1)


def _each_gate(cell: Cell, path: str) -> list[str]:
    """Lists the paths that a path of the table stands for: one, one for each gate, or none."""
    if "{gate}" in path:
        return [path.format(gate=gate) for gate in cell.gates]
    return [path] if path else []


def _has(owner: object, name: str) -> bool:
    return name in owner if isinstance(owner, Mapping) else hasattr(owner, name)


def _member(owner: object, name: str) -> object:
    """Returns an attribute of a live object, or the value of that key in a mapping."""
    return owner[name] if isinstance(owner, Mapping) else getattr(owner, name)
