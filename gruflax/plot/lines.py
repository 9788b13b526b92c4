"""Pictures of lines: training, costs against sizes, forecasts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gruflax.plot.figure import (
    COLOURS,
    SIZE,
    checked_array,
    checked_curves,
    load_matplotlib,
    new_axes,
    whole_ticks,
)


DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def learning_curves(
    curves: Mapping[str, ArrayLike], axes: Any = None, ylabel: str = "loss", xlabel: str = "epoch"
) -> Any:
    """Draws a quantity over training, a line a name.

    Args:
        curves: `[n]` values by name, one an epoch, from the first; lengths may differ.
        axes: matplotlib axes; None makes a figure.
        ylabel: what the values are, with their unit.
        xlabel: what is counted.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no curve, or one is not `[n]`.
    """
    lines = checked_curves("curves", curves)
    axes = new_axes(SIZE)[0] if axes is None else axes
    for index, (name, values) in enumerate(lines.items()):
        look = _line_look(index) | {"markevery": max(1, len(values) // 8), "markersize": 4}
        axes.plot(np.arange(1, len(values) + 1), values, label=name, **look)
    whole_ticks(axes.xaxis)
    return _labelled(axes, xlabel, ylabel)


def costs(
    sizes: ArrayLike,
    costs: Mapping[str, ArrayLike],
    axes: Any = None,
    xlabel: str = "steps",
    ylabel: str = "milliseconds",
) -> Any:
    """Draws what something costs against a size, a line a name, both axes logarithmic.

    Args:
        sizes: `[n]` positive numbers.
        costs: `[n]` positive numbers by name; NaN where there is none.
        axes: matplotlib axes; None makes a figure.
        xlabel: what `sizes` are.
        ylabel: what `costs` are, with their unit.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `sizes` is not `[n]`, or a cost is not as long.
    """
    places = checked_array("sizes", sizes, "[n]")
    lines = checked_curves("costs", costs, len(places))
    axes = new_axes(SIZE)[0] if axes is None else axes
    for index, (name, values) in enumerate(lines.items()):
        # Wider below, so that of equal costs all lines are seen.
        size = {"linewidth": max(1.5, 3.5 - index), "markersize": max(4, 8 - 2 * index)}
        axes.plot(places, values, label=name, **_line_look(index), **size)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.minorticks_off()
    ticker = load_matplotlib("ticker")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    return _labelled(axes, xlabel, ylabel)


def forecast(
    time: ArrayLike,
    quantiles: Mapping[float, ArrayLike],
    *,
    history: tuple[ArrayLike, ArrayLike] | None = None,
    actual: ArrayLike | None = None,
    axes: Any = None,
    xlabel: str = "time",
    ylabel: str = "value",
) -> Any:
    """Draws a fan of forecasts: the median in bands of quantiles, after what came before.

    Args:
        time: `[t]` numbers or datetime64, of the forecast.
        quantiles: `[t]` values by level in (0, 1): 0.5 and pairs such as 0.05 and 0.95.
        history: times `[n]` and values `[n]` before the forecast; NaN leaves a gap.
        actual: `[t]` values that came true; NaN leaves a gap.
        axes: matplotlib axes; None makes a figure.
        xlabel: what `time` is.
        ylabel: what the values are, with their unit.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the levels are not 0.5 and pairs around it, or a shape does not fit.
    """
    times = checked_array("time", time, "[t]")
    levels = np.sort(np.asarray(list(quantiles), float))
    pairs, middle = divmod(len(levels), 2)
    within = middle == 1 and 0 < levels[0] and np.allclose(levels + levels[::-1], 1)
    if not within:
        raise ValueError(
            "quantiles must have the levels 0.5 and pairs such as 0.05 and 0.95, "
            f"got {sorted(quantiles)}."
        )
    curves = {str(level): quantiles[level] for level in sorted(quantiles)}
    bands = list(checked_curves("quantiles", curves, len(times)).values())
    axes = new_axes(SIZE)[0] if axes is None else axes
    if history is not None:
        _draw_history(axes, *history)
    dark = np.asarray(load_matplotlib("colors").to_rgb(COLOURS[0]))
    for index in range(pairs):
        # Opaque, so that a band and its entry in the legend have one colour.
        share = 0.45 * (index + 1) / pairs
        axes.fill_between(
            times,
            bands[index],
            bands[-1 - index],
            color=share * dark + (1 - share),
            linewidth=0,
            label=f"{100 * (levels[-1 - index] - levels[index]):.0f} % band",
        )
    axes.plot(times, bands[pairs], color=COLOURS[0], label="median")
    if actual is not None:
        values = checked_curves("actual", {"actual": actual}, len(times))["actual"]
        axes.plot(times, values, color=COLOURS[1], linestyle="--", label="actual")
    if times.dtype.kind == "M":
        _date_ticks(axes.xaxis)
    return _labelled(axes, xlabel, ylabel)


def _draw_history(axes: Any, time: ArrayLike, values: ArrayLike) -> None:
    times = checked_array("history", time, "[n]")
    line = checked_curves("history", {"values": values}, len(times))["values"]
    axes.plot(times, line, color="black", linewidth=1, label="history")


def _date_ticks(axis: Any) -> None:
    dates = load_matplotlib("dates")
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    axis.set_major_locator(locator)
    axis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _line_look(index: int) -> dict[str, Any]:
    """Gives each line a colour, dashes and a marker of its own."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _labelled(axes: Any, xlabel: str, ylabel: str) -> Any:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize="small")
    return axes
