"""Reading HDF5 files of Keras: arrays and names, and nothing that lies elsewhere."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np


# An h5py.File, Group or Dataset: h5py has no types.
Node: TypeAlias = Any


def check_links(file: Node) -> None:
    """Raises a ValueError where a link in the file leads to another file."""

    def elsewhere(name: str, link: object) -> str | None:
        return name if type(link).__name__ == "ExternalLink" else None

    # The first answer other than None ends the visit.
    found = file.visititems_links(elsewhere)
    if found is not None:
        raise ValueError(f"the file must hold its arrays itself, {found} is elsewhere.")


def read_array(dataset: Node | np.ndarray) -> np.ndarray:
    """Reads an array of floats that lies in this file; an array in memory stays as it is."""
    if isinstance(dataset, np.ndarray):
        return dataset
    kind = getattr(dataset, "dtype", None)
    if kind is None or kind.kind not in "fuV":
        raise ValueError(f"{dataset.name} must be an array of floats, got {kind or 'a group'}.")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the file must hold its arrays itself, {dataset.name} is elsewhere.")
    # A small file can declare a huge shape and store no numbers. The chunks of a compressed
    # array have sizes of their own.
    if dataset.compression is None and dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"the file must hold its arrays whole, {dataset.name} is not.")
    array = np.array(dataset)
    if dataset.attrs.get("dtype") == "bfloat16":
        return array.view(jnp.bfloat16)
    return array


def read_strings(group: Node, name: str) -> list[str]:
    """Reads a list of names in an attribute; Keras splits a long one into `name0`, `name1`, ..."""
    values = list(group.attrs.get(name, ()))
    for index in itertools.count():
        if f"{name}{index}" not in group.attrs:
            break
        values.extend(group.attrs[f"{name}{index}"])
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def is_gru(arrays: Sequence[Node]) -> bool:
    """Returns whether arrays have the shapes of a GRU's weights; an LSTM has a matrix [u, 4u]."""
    if len(arrays) not in (2, 3) or any(len(array.shape) != 2 for array in arrays[:2]):
        return False
    kernel, recurrent = (array.shape for array in arrays[:2])
    return recurrent[1] == 3 * recurrent[0] == kernel[1]
