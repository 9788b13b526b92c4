"""Checkpoints in the safetensors format, which holds arrays by name and no code."""

import json
import os
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import linen as nn

from gruflax.convert.weights import errors_as_value_errors, import_optional, nest, read_json
from gruflax.functional.checks import brief


Path: TypeAlias = str | os.PathLike

# Nested dicts, tuples, lists and other pytrees, of arrays or of the names of arrays.
Tree: TypeAlias = Any

# The dtypes that both the format and NumPy have.
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
)

# The entry of the file's metadata that describes the dicts, tuples and lists behind its flat names.
_TREE = "gruflax.tree"


def save_safetensors(path: Path, variables: Mapping[str, Tree]) -> None:
    """Saves the variables of a model under names like "params.kernel" and "recurrent_state.h".

    For example::

        save_safetensors("gru.safetensors", variables)

    An existing file is replaced in one step, when the new one is complete. The metadata of the file
    describes the dicts, tuples and lists that the names come from.

    Args:
        path: the path of the file.
        variables: nested dicts, tuples and lists of arrays. Other nodes, for example named tuples,
            are loaded as dicts unless `load_safetensors` is given `variables` with such nodes.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: a leaf is no array of numbers.
        ValueError: a key of a dict is empty or contains a dot.
    """
    safetensors = import_optional("checkpoints", "safetensors", "numpy")
    # The format writes the memory of an array and ignores its strides.
    arrays = {name: np.array(_array(name, leaf), order="C") for name, leaf in _flat(variables)}
    tree = json.dumps(_described(nn.unbox(variables)))
    temporary = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        safetensors.numpy.save_file(arrays, temporary, {_TREE: tree})
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load_safetensors(path: Path, variables: Mapping[str, Tree] | None = None) -> dict[str, Tree]:
    """Loads the variables that `save_safetensors` saved.

    For example::

        variables = gru.init(key, x)
        variables = load_safetensors("gru.safetensors", variables)

    Args:
        path: the path of the file.
        variables: a template that the file must fit: a nested dict of arrays, or of
            `jax.ShapeDtypeStruct`s as `jax.eval_shape(gru.init, key, x)` returns it. It is not
            changed. None, the default, accepts any names, shapes and dtypes.

    Returns:
        NumPy arrays, nested as `variables` or, without it, in the dicts, tuples and lists that were
        saved. If the file's metadata does not describe these, because another program
        wrote it, the arrays are in dicts, and in tuples where all names are numbers from 0.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
        ValueError: the file is truncated or is no safetensors file, its names do not fit together,
            or its names, shapes or dtypes are not those of `variables`.
    """
    safetensors = import_optional("checkpoints", "safetensors", "numpy")
    with errors_as_value_errors(f"{path} must be a whole safetensors file"):
        arrays = safetensors.numpy.load_file(os.fspath(path))
        with safetensors.safe_open(os.fspath(path), "np") as file:
            tree = (file.metadata() or {}).get(_TREE)
    if variables is not None:
        wanted = _flat(variables)
        _check(path, arrays, dict(wanted))
        leaves = [arrays[name] for name, _ in wanted]
        return jax.tree.unflatten(jax.tree.structure(variables), leaves)
    if tree is not None:
        return _as_described(path, arrays, tree)
    return {name: _in_order(node) for name, node in nest(arrays).items()}


def _flat(tree: Mapping[str, Tree]) -> list[tuple[str, Tree]]:
    """The names, joined with dots, and the leaves of nested dicts, tuples and lists."""
    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(tree)):
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if not all(names) or "." in "".join(names):
            raise ValueError(f"names in variables must be without dots and not empty, got {names}.")
        leaves.append((".".join(names), leaf))
    return leaves


def _array(name: str, leaf: object) -> np.ndarray:
    """Returns a leaf as an array, or raises a TypeError where the format lacks its dtype."""
    if str(getattr(leaf, "dtype", None)) not in _DTYPES:
        raise TypeError(f"{name} must be an array of numbers of {_DTYPES}, got {brief(leaf)}.")
    return np.asarray(leaf)


def _described(node: Tree, names: tuple[str, ...] = ()) -> Tree:
    """Describes a tree for JSON: `{"tuple": [...]}`, `{"dict": [[key, ...]]}`, arrays by name."""
    if node is None:
        return None
    parts = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda part: part is not node)
    if [path for path, _ in parts] == [()]:
        return ".".join(names)
    entries = []
    for (key,), part in parts:
        name = jax.tree_util.keystr((key,), simple=True)
        # As names all keys are text; JSON keeps those that are numbers.
        own = key.key if isinstance(getattr(key, "key", None), (str, int)) else name
        entries.append((own, _described(part, (*names, name))))
    if type(node) in (tuple, list):
        return {type(node).__name__: [part for _, part in entries]}
    return {"dict": entries}


def _as_described(path: Path, arrays: Mapping[str, np.ndarray], text: str) -> dict[str, Tree]:
    """Puts a file's arrays into the tree that its metadata describes."""
    what = f"the tree in the metadata of {path}"
    with errors_as_value_errors(f"{what} must be whole"):
        tree = _rebuilt(read_json(what, text))
        names = jax.tree.leaves(tree)
    if not isinstance(tree, dict):
        raise ValueError(f"{what} must be a dict, got {brief(tree)}.")
    _check_names(path, arrays, names)
    return jax.tree.map(lambda name: arrays[name], tree)


def _rebuilt(node: Tree) -> Tree:
    """Makes the tree that `_described` described, with the names of arrays as its leaves."""
    if node is None or isinstance(node, str):
        return node
    ((kind, entries),) = node.items()
    if kind == "dict":
        return {key: _rebuilt(part) for key, part in entries}
    return {"tuple": tuple, "list": list}[kind](map(_rebuilt, entries))


def _in_order(node: Tree) -> Tree:
    """Turns dicts with the keys "0", "1", ... back into tuples."""
    if not isinstance(node, dict):
        return node
    numbers = [str(index) for index in range(len(node))]
    if set(node) == set(numbers):
        return tuple(_in_order(node[number]) for number in numbers)
    return {name: _in_order(part) for name, part in node.items()}


def _check(path: Path, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Tree]) -> None:
    """Raises a ValueError unless a file's arrays have the names, shapes and dtypes wanted."""
    _check_names(path, arrays, wanted)
    for name, leaf in wanted.items():
        given, needed = ((np.shape(each), np.dtype(each.dtype)) for each in (arrays[name], leaf))
        if given != needed:
            raise ValueError(
                f"{name} in {path} must be {needed[1]} {needed[0]}, got {given[1]} {given[0]}."
            )


def _check_names(path: Path, arrays: Collection[str], wanted: Collection[str]) -> None:
    """Raises a ValueError unless a file's arrays have the names wanted."""
    missing, unknown = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
    if missing or unknown:
        raise ValueError(f"{path} must hold {sorted(wanted)}: {missing=}, {unknown=}.")
