"""Pictures of bars: how contestants compare."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gruflax.plot.figure import COLOURS, SIZE, checked_curves, new_axes


def ratios(
    ratios: Mapping[str, ArrayLike],
    labels: Sequence[str],
    axes: Any = None,
    *,
    subject: str = "gruflax",
    looks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Draws the times of contestants over that of one of them: clusters of bars that stand on 1.

    Args:
        ratios: `[n]` positive numbers by contestant, over the time of `subject`; NaN leaves a gap.
        labels: n names of cases, one a cluster.
        axes: matplotlib axes; None makes a figure.
        subject: the name of the contestant that is 1.
        looks: options of `Axes.bar` by contestant; colours are chosen for the others.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no contestant, or a row is not `[n]`.
    """
    bars = checked_curves("ratios", ratios, len(labels))
    axes = new_axes((SIZE[0] + 1, SIZE[1]))[0] if axes is None else axes
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        places = np.arange(len(labels)) + (index - (len(bars) - 1) / 2) * width
        look = {"color": COLOURS[index % len(COLOURS)]} | dict((looks or {}).get(name, {}))
        # Bars go up from the subject's own time where slower, and down where faster.
        axes.bar(
            places,
            values - 1,
            width,
            bottom=1,
            label=name,
            edgecolor="black",
            linewidth=0.5,
            **look,
        )
    axes.axhline(1, color="black", linewidth=1.5, label=f"{subject} = 1")
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.set_ylabel(f"time / time of {subject}\n(above 1: slower)")
    axes.set_xticks(range(len(labels)), list(labels), fontsize="small")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return axes
