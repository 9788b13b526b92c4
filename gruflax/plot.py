"""Pictures of a GRU: its gates over time, and the steps that a mask lets count.

They need matplotlib, which the extra `[notebooks]` installs. Colour-blind people can tell the
colours apart.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike


if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: Seven colours by Okabe and Ito, which colour-blind people can tell apart; the last are faint.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
#: A grey for what is in the background.
GREY = "#999999"
SIZE = (5.0, 3.0)
PARTS = ("update", "reset", "candidate", "state")


def gates(
    activations: object,
    axes: "Sequence[Axes] | np.ndarray | None" = None,
    units: Sequence[int] | None = None,
    parts: Sequence[str] = PARTS,
) -> np.ndarray:
    """Draws heat maps of a sequence: a row per unit, a column per step, a map per gate or state.

    Args:
        activations: the result of `gruflax.gate_activations` for one sequence: arrays `[t, u]`.
        axes: matplotlib axes, one for each of `parts`. Default None makes a figure.
        units: the indices of the units to draw, in this order. Default None draws all.
        parts: the attributes to draw. Default ("update", "reset", "candidate", "state").

    Returns:
        An array of matplotlib axes `[len(parts)]`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `activations` are not a result of `gruflax.gate_activations`.
        ValueError: an array is not `[t, u]`, a unit or a part does not exist, or the number of axes
            is not that of the parts.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"parts must be some of {PARTS}, got {tuple(parts)}.")
    if not all(hasattr(activations, part) for part in parts):
        raise TypeError(
            "activations must be what gruflax.gate_activations returns, got "
            f"{type(activations).__name__}."
        )
    values = {
        part: checked_array(f"activations.{part}", getattr(activations, part), "[t, u]")
        for part in parts
    }
    if units is not None:
        chosen = checked_indices("units", units, values[parts[0]].shape[1])
        values = {part: array[:, chosen] for part, array in values.items()}
    if axes is None:
        size = (SIZE[0], 0.6 + 1.3 * len(parts))
        panels = new_axes(size, rows=len(parts), sharex=True)
    else:
        panels = np.atleast_1d(np.asarray(axes, object)).ravel()
    if len(panels) != len(parts):
        raise ValueError(f"axes must be {len(parts)}, one for each of parts, got {len(panels)}.")
    for panel, (part, array) in zip(panels, values.items(), strict=True):
        _draw_part(panel, part, array, units)
    panels[-1].set_xlabel("step")
    return panels


def _draw_part(axes: "Axes", part: str, array: np.ndarray, units: Sequence[int] | None) -> None:
    """Draws one heat map: viridis from 0 to 1 for gates, a diverging map for signed values."""
    gate = part in ("update", "reset")
    limit = np.abs(array).max(initial=0) or 1.0
    low, high = (min(0, array.min()), max(1, array.max())) if gate else (-limit, limit)
    picture = axes.imshow(
        array.T,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if gate else "PuOr",
        vmin=low,
        vmax=high,
    )
    axes.set_title(f"{part} gate" if gate else part, loc="left", fontsize="medium")
    axes.set_ylabel("unit")
    if units is not None:
        # There is room for eight numbers; rows without one have a small tick.
        rows = range(0, len(units), -(-len(units) // 8))
        axes.set_yticks(rows, [str(units[row]) for row in rows], fontsize="small")
        axes.set_yticks(range(len(units)), minor=True)
    axes.locator_params("x", integer=True)
    axes.figure.colorbar(picture, ax=axes, pad=0.02)


def mask(mask: ArrayLike, axes: "Axes | None" = None) -> "Axes":
    """Draws which steps of some sequences count: a row per sequence, a column per step.

    Args:
        mask: `[n, t]` or `[t]`, any dtype; True (or non-zero) where the step counts.
        axes: matplotlib axes. Default None makes a figure.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `mask` has neither one nor two axes, or is empty.
    """
    values = np.asarray(mask).astype(bool)
    valid = checked_array("mask", values[None] if values.ndim == 1 else values, "[n, t]")
    panel: Axes = new_axes(SIZE)[0] if axes is None else axes
    colours = {"masked": "#D9D9D9", "valid": COLOURS[0]}
    # White lines between the cells make the steps countable.
    panel.pcolormesh(
        valid,
        cmap=load_matplotlib("colors").ListedColormap(list(colours.values())),
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.5,
    )
    panel.invert_yaxis()
    for axis, size in ((panel.xaxis, valid.shape[1]), (panel.yaxis, valid.shape[0])):
        _cell_ticks(axis, size)
    panel.set_xlabel("step")
    panel.set_ylabel("sequence")
    patch = load_matplotlib("patches").Patch
    patches = [patch(color=colours[name], label=name) for name in ("valid", "masked")]
    # The legend is above the axes, where it hides nothing.
    panel.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return panel


def _cell_ticks(axis: Any, size: int) -> None:
    """Puts the numbers of the cells of a mesh at their middles, ten numbers at most."""
    numbers = range(0, size, -(-size // 10))
    axis.set_ticks([number + 0.5 for number in numbers], [str(number) for number in numbers])


def load_matplotlib(module: str) -> ModuleType:
    """Imports a module of matplotlib.

    Args:
        module: its name, for example "pyplot".

    Returns:
        The module.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: pip install matplotlib, or gruflax with its extra [notebooks]."
        ) from error
    return importlib.import_module(f"matplotlib.{module}")


def new_axes(size: tuple[float, float], rows: int = 1, sharex: bool = False) -> np.ndarray:
    """Makes a figure with a column of axes."""
    options = {"figsize": size, "layout": "constrained", "sharex": sharex, "squeeze": False}
    return load_matplotlib("pyplot").subplots(rows, **options)[1][:, 0]


def checked_array(name: str, values: ArrayLike, shape: str) -> np.ndarray:
    """Returns values as an array, or raises a ValueError unless it has the axes of `shape`."""
    array = np.asarray(values)
    if array.ndim != shape.count(",") + 1 or not array.size:
        raise ValueError(f"{name} must have shape {shape}, none of them 0, got {array.shape}.")
    # Matplotlib does not know bfloat16 and similar dtypes.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def checked_indices(name: str, indices: Sequence[int], size: int) -> np.ndarray:
    """Returns indices as an array, or raises a ValueError unless they are integers below `size`."""
    array = np.asarray(indices)
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(f"{name} must be integers, at least one, got {indices!r}.")
    if array.min() < 0 or array.max() >= size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {list(indices)}.")
    return array
