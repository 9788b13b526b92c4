"""Checkpoints in the safetensors format: arrays by flat names, and nothing that runs."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from gruflax.convert.gates import whole
from gruflax.functional.checks import brief


# What the format has for NumPy.
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64"),
)


def save_safetensors(path: str | os.PathLike, variables: Mapping[str, Any]) -> None:
    """Saves variables, every collection of them: "params.kernel", "recurrent_state.h", ...

        save_safetensors("gru.safetensors", variables)

    The file is replaced at once, when the new one is whole.

    Raises:
        ImportError: safetensors is not installed.
        TypeError: a leaf is no array of numbers.
        ValueError: a name is empty or has a dot in it.
    """
    safetensors = _safetensors()
    # The format takes memory as it lies.
    arrays = {name: np.array(_array(name, leaf), order="C") for name, leaf in _flat(variables)}
    temporary = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        safetensors.numpy.save_file(arrays, temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load_safetensors(
    path: str | os.PathLike, variables: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Loads variables.

        variables = gru.init(key, x)
        variables = load_safetensors("gru.safetensors", variables)

    Args:
        path: of the file.
        variables: what the file must hold: a nested dict of arrays, or of `jax.ShapeDtypeStruct`
            as `jax.eval_shape(gru.init, key, x)` gives it. It stays as it is. None takes the
            file's word for it.

    Returns:
        NumPy arrays, nested as `variables`, or in dicts.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
        ValueError: the file is truncated or is no safetensors file, or its names, shapes or
            dtypes are not those of `variables`.
    """
    safetensors = _safetensors()
    with whole(f"{path} must be a whole safetensors file"):
        arrays = safetensors.numpy.load_file(os.fspath(path))
    if variables is None:
        return _nested(arrays)
    wanted = _flat(variables)
    _check(path, arrays, dict(wanted))
    return jax.tree.unflatten(jax.tree.structure(variables), [arrays[name] for name, _ in wanted])


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "checkpoints need safetensors: pip install safetensors, or gruflax with its "
            "extra [convert]."
        ) from error
    return safetensors


def _flat(tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The leaves of nested dicts, tuples and lists, by names joined with dots."""
    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.unbox(tree)):
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if not all(names) or "." in "".join(names):
            raise ValueError(f"names in variables must be without dots and not empty, got {names}.")
        leaves.append((".".join(names), leaf))
    return leaves


def _array(name: str, leaf: Any) -> np.ndarray:
    if not hasattr(leaf, "dtype") or str(leaf.dtype) not in _DTYPES:
        raise TypeError(f"{name} must be an array of numbers of {_DTYPES}, got {brief(leaf)}.")
    return np.asarray(leaf)


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *owners, name = path.split(".")
        node = tree
        for owner in owners:
            node = node.setdefault(owner, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"the file must not name {owner!r} both array and owner of {path!r}."
                )
        node[name] = array
    return tree


def _check(path: Any, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> None:
    """Raises a ValueError unless a file's arrays are of the names, shapes and dtypes wanted."""
    missing, unknown = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
    if missing or unknown:
        raise ValueError(f"{path} must hold {sorted(wanted)}: {missing=}, {unknown=}.")
    for name, leaf in wanted.items():
        given, needed = ((np.shape(each), np.dtype(each.dtype)) for each in (arrays[name], leaf))
        if given != needed:
            raise ValueError(
                f"{name} in {path} must be {needed[1]} {needed[0]}, got {given[1]} {given[0]}."
            )
