"""A picture of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gruflax.bench.case import MODES, STEP
from gruflax.bench.peers import FLOOR_PEER, LIBRARIES, LOOP_PEERS, STEP_PEERS, SUBJECT
from gruflax.bench.session import Group
from gruflax.bench.targets import ratio, seconds


# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00", "#CC79A7")
FLOOR_COLOUR = "#999999"
HATCHES = ("", "//", "..", "xx", "--")


def import_pyplot() -> Any:
    """Imports matplotlib's pyplot without a window.

    Raises:
        ImportError: matplotlib is not installed; the message says what to install.
    """
    try:
        import matplotlib  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'gruflax[notebooks]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    return pyplot


def plot_groups(groups: Sequence[Group], path: Path, caption: str) -> None:
    """Draws the time of each contestant over gruflax', a panel a mode, bars by case.

    Args:
        groups: what was measured.
        path: file to write; its ending chooses the format.
        caption: names the machine.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing was timed.
    """
    timed = [group for group in groups if _subject_seconds(group)]
    modes = [mode for mode in (*MODES, STEP) if any(group.mode == mode for group in timed)]
    if not modes:
        raise ValueError("groups must hold timings to draw, got none.")
    pyplot = import_pyplot()
    most = max(sum(group.mode == mode for group in timed) for mode in modes)
    figure, panels = pyplot.subplots(
        len(modes),
        figsize=(max(8.0, 2.2 * most + 2), 4.2 * len(modes)),
        squeeze=False,
        layout="constrained",
    )
    for axes, mode in zip(panels[:, 0], modes, strict=True):
        _draw_panel(axes, mode, [group for group in timed if group.mode == mode])
    figure.supxlabel(f"(batch, time, features, units)\n{caption}", fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _subject(group: Group) -> str:
    return STEP_PEERS[0].name if group.mode == STEP else SUBJECT


def _subject_seconds(group: Group) -> float | None:
    return seconds(group.result(_subject(group)))


def _draw_panel(axes: Any, mode: str, groups: Sequence[Group]) -> None:
    """Draws one mode: clusters of bars, and a line at gruflax' time."""
    names = list(dict.fromkeys(r.name for g in groups for r in g.results if r.name != _subject(g)))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        # Bars stand on gruflax' own time, up where slower and down where faster.
        heights = [
            (ratio(seconds(group.result(name)), _subject_seconds(group)) or float("nan")) - 1
            for group in groups
        ]
        places = [place + (index - (len(names) - 1) / 2) * width for place in range(len(groups))]
        axes.bar(
            places,
            heights,
            width,
            bottom=1,
            label=name,
            edgecolor="black",
            linewidth=0.5,
            **_look(name),
        )
    subject = _subject(groups[0])
    axes.axhline(1, color="black", linewidth=1.5, label=f"{subject} = 1")
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.set_title(mode, loc="left")
    axes.set_ylabel(f"time / time of {subject}\n(above 1: slower)")
    axes.set_xticks(range(len(groups)), [_tick(group) for group in groups], fontsize="small")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _tick(group: Group) -> str:
    case = group.case
    return "\n".join([str(case.shape), case.dtype, *["masked"] * case.masked])


def _look(name: str) -> dict[str, str]:
    """Gives a contestant the same colour and hatching in every picture."""
    if name == FLOOR_PEER.name:
        return {"color": FLOOR_COLOUR}
    if name in LIBRARIES:
        return {"color": COLOURS[list(LIBRARIES).index(name)]}
    own = [peer.name for peer in (*LOOP_PEERS, *STEP_PEERS)]
    return {"color": "white", "hatch": HATCHES[own.index(name) % len(HATCHES)]}
