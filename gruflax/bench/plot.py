"""A picture of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gruflax import plot
from gruflax.bench.case import MODES, STEP
from gruflax.bench.peers import FLOOR_PEER, LIBRARIES, LOOP_PEERS, STEP_PEERS, SUBJECT
from gruflax.bench.session import Group
from gruflax.bench.targets import ratio, seconds


HATCHES = ("", "//", "..", "xx", "--")


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
    most = max(sum(group.mode == mode for group in timed) for mode in modes)
    # A bare figure is drawn without a window.
    figure = plot.load_matplotlib("figure").Figure(
        figsize=(max(8.0, 2.2 * most + 2), 4.2 * len(modes)), layout="constrained"
    )
    panels = figure.subplots(len(modes), squeeze=False)[:, 0]
    for axes, mode in zip(panels, modes, strict=True):
        _draw_panel(axes, mode, [group for group in timed if group.mode == mode])
    figure.supxlabel(f"(batch, time, features, units)\n{caption}", fontsize="small", wrap=True)
    figure.savefig(path, dpi=120)


def _subject(group: Group) -> str:
    return STEP_PEERS[0].name if group.mode == STEP else SUBJECT


def _subject_seconds(group: Group) -> float | None:
    return seconds(group.result(_subject(group)))


def _draw_panel(axes: Any, mode: str, groups: Sequence[Group]) -> None:
    """Draws one mode: clusters of bars, and a line at gruflax' time."""
    names = dict.fromkeys(r.name for g in groups for r in g.results if r.name != _subject(g))
    ratios = {
        name: [
            ratio(seconds(group.result(name)), _subject_seconds(group)) or float("nan")
            for group in groups
        ]
        for name in names
    }
    looks = {name: _look(name, list(names)) for name in names}
    ticks = [_tick(group) for group in groups]
    plot.ratios(ratios, ticks, axes, subject=_subject(groups[0]), looks=looks)
    axes.set_title(mode, loc="left")


def _tick(group: Group) -> str:
    case = group.case
    return "\n".join([str(case.shape), case.dtype, *["masked"] * case.masked])


def _look(name: str, names: Sequence[str]) -> dict[str, str]:
    """Gives a contestant the same colour and hatching in every picture.

    Those of `--chunks` are hatched in the order of this one.
    """
    if name == FLOOR_PEER.name:
        return {"color": plot.GREY}
    if name in LIBRARIES:
        return {"color": plot.COLOURS[list(LIBRARIES).index(name)]}
    own = [peer.name for peer in (*LOOP_PEERS, *STEP_PEERS)]
    if name in own:
        return {"color": "white", "hatch": HATCHES[own.index(name) % len(HATCHES)]}
    others = [name for name in names if name not in {FLOOR_PEER.name, *LIBRARIES, *own}]
    return {"color": "white", "hatch": "o" * (others.index(name) + 1)}
