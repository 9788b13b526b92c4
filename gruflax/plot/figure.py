"""What all pictures share: matplotlib, figures, colours, and checks of arrays."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


# Okabe and Ito's colours, those that are faint on white last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GREY = "#999999"
SIZE = (5.0, 3.0)


def load_matplotlib(module: str) -> Any:
    """Imports a module of matplotlib.

    Args:
        module: its name, such as "pyplot".

    Returns:
        The module.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'gruflax[notebooks]'") from error
    return importlib.import_module(f"matplotlib.{module}")


def new_axes(size: tuple[float, float], rows: int = 1, sharex: bool = False) -> np.ndarray:
    """Makes a figure with a column of axes."""
    options = {"figsize": size, "layout": "constrained", "sharex": sharex, "squeeze": False}
    return load_matplotlib("pyplot").subplots(rows, **options)[1][:, 0]


def whole_ticks(axis: Any) -> None:
    """Marks whole numbers only."""
    axis.get_major_locator().set_params(integer=True)


def checked_array(name: str, values: ArrayLike, shape: str) -> np.ndarray:
    """Brings values to an array of as many axes as `shape` names, none of them empty."""
    array = np.asarray(values)
    if array.ndim != shape.count(",") + 1 or not array.size:
        raise ValueError(f"{name} must have shape {shape}, none of them 0, got {array.shape}.")
    # bfloat16 and its kin are unknown to matplotlib.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def checked_curves(
    name: str, curves: Mapping[str, ArrayLike], size: int | None = None
) -> dict[str, np.ndarray]:
    """Checks that there are curves, each `[n]`, or `[size]`."""
    if not curves:
        raise ValueError(f"{name} must hold at least one entry, got none.")
    arrays = {}
    for key, values in curves.items():
        array = np.asarray(values, float)
        if array.ndim != 1 or not array.size or size not in (None, len(array)):
            wanted = "[n]" if size is None else (size,)
            raise ValueError(f"{name}[{key!r}] must have shape {wanted}, got {array.shape}.")
        arrays[key] = array
    return arrays


def checked_indices(name: str, indices: Sequence[int], size: int) -> np.ndarray:
    array = np.asarray(indices)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(f"{name} must be integers, at least one, got {indices!r}.")
    if array.min() < 0 or array.max() >= size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {list(indices)}.")
    return array
