"""The command `python -m gruflax.bench`."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gruflax.bench.case import (
    FULL_SHAPES,
    GPU_SHAPES,
    MEMORY_SHAPE,
    QUICK_SHAPES,
    SCALING,
    STEP,
    STEP_SHAPES,
    VALUE_AND_GRAD,
    Case,
)
from gruflax.bench.machine import describe_machine
from gruflax.bench.options import MASKS, Parser, build_parser
from gruflax.bench.peers import FLOOR_PEER, LIBRARIES, LOOP_PEERS, STEP_PEERS, Peer, chunk_peer
from gruflax.bench.plot import plot_groups
from gruflax.bench.report import group_table, machine_line, remarks, targets_table, to_json
from gruflax.bench.session import DisagreementError, Group, measure_group
from gruflax.bench.targets import LINEN, find_targets
from gruflax.plot import load_matplotlib


FILES = ("json", "plot")
QUICK_PEERS = ("flax.linen", "flax.nnx")


class Task(NamedTuple):
    """One group to measure.

    Attributes:
        case: the problem.
        mode: "forward", "value_and_grad" or "step".
        peers: the contestants.
        seconds: for the timings; 0 only compiles.
    """

    case: Case
    mode: str
    peers: tuple[Peer, ...]
    seconds: float


def plan(options: argparse.Namespace, device: str) -> list[Task]:
    """Lists what to measure.

    Args:
        options: of the command line.
        device: the platform.

    Returns:
        The tasks, in order.
    """
    seconds = options.seconds or (1.0 if options.quick else 10.0)
    if options.step:
        shapes = STEP_SHAPES[:1] if options.quick else STEP_SHAPES
        return [
            Task(Case(*shape, dtype=dtype, device=device), STEP, STEP_PEERS, seconds)
            for dtype in dict.fromkeys(options.dtypes)
            for shape in shapes
        ]
    shapes, full = _shapes(options, device)
    names = options.peers or (QUICK_PEERS if options.quick else LIBRARIES)
    loops = (*LOOP_PEERS, *map(chunk_peer, dict.fromkeys(options.chunks)))
    peers = (*loops, *(LIBRARIES[name] for name in dict.fromkeys(names)), FLOOR_PEER)
    masks = MASKS[options.masks or ("off" if options.quick else "both")]
    cases = [
        Case(*shape, dtype, masked, device)
        for dtype in dict.fromkeys(options.dtypes)
        for masked in masks
        for shape in shapes
    ]
    tasks = [
        Task(case, mode, peers, seconds) for case in cases for mode in dict.fromkeys(options.modes)
    ]
    if full and VALUE_AND_GRAD in options.modes:
        # Memory needs no timing, and this is where it matters.
        compared = (*LOOP_PEERS, LIBRARIES[LINEN])
        large = Case(*MEMORY_SHAPE, device=device)
        tasks.append(Task(large, VALUE_AND_GRAD, compared, 0.0))
    return tasks


def _shapes(
    options: argparse.Namespace, device: str
) -> tuple[Sequence[tuple[int, int, int, int]], bool]:
    """Returns the shapes, and whether they are those of the full run."""
    if options.shapes:
        return tuple(dict.fromkeys(options.shapes)), False
    if options.scaling:
        return SCALING[options.scaling], False
    if options.quick:
        return QUICK_SHAPES, False
    return (GPU_SHAPES if device == "gpu" else FULL_SHAPES), True


def run(tasks: Sequence[Task], console: Console) -> list[Group]:
    """Measures behind a progress bar, and prints each group as it is done.

    Args:
        tasks: what to measure.
        console: to print on.

    Returns:
        One group a task.
    """
    columns = (
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    groups = []
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(tasks))
        for index, task in enumerate(tasks):

            def report(what: str, share: float, index: int = index, task: Task = task) -> None:
                description = f"{task.mode} {task.case.label}: {what}"
                progress.update(bar, completed=index + share, description=description)

            group = measure_group(task.case, task.mode, task.peers, task.seconds, report)
            groups.append(group)
            progress.update(bar, completed=index + 1)
            progress.console.print(group_table(group))
        progress.update(bar, description="done")
    return groups


def _device(parser: Parser, wanted: str | None) -> str:
    """Returns the platform to measure, or ends with one line where there is none such."""
    if wanted is None:
        return jax.default_backend()
    try:
        jax.devices(wanted)
    except RuntimeError:
        parser.error(f"argument --device: JAX finds no {wanted} here, only {jax.default_backend()}")
    return wanted


def _write(parser: Parser, option: str, write: Callable[[], object]) -> None:
    """Writes a file, or ends with one line that says why not."""
    try:
        write()
    except (OSError, ValueError) as error:
        parser.error(f"argument {option}: {error}")


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark.

    Args:
        argv: the command line's options; None takes them from `sys.argv`.

    Raises:
        SystemExit: after `--help`; when an option is wrong (status 2); when gruflax' loops disagree
            (status 1).
    """
    parser = build_parser()
    options = parser.parse_args(argv)
    device = _device(parser, options.device)
    if options.plot:
        try:
            load_matplotlib("figure")
        except ImportError as error:
            parser.error(f"argument --plot: {error}")
    console = Console()
    machine = describe_machine(device)
    console.print(machine_line(machine), markup=False, highlight=False)
    try:
        groups = run(plan(options, device), console)
    except DisagreementError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    for line in remarks(groups):
        console.print(line, markup=False, highlight=False, style="dim")
    console.print(targets_table(find_targets(groups)))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name not in FILES}
        text = json.dumps(to_json(groups, machine, settings), indent=1)
        _write(parser, "--json", lambda: options.json.write_text(text))
    if options.plot:
        _write(parser, "--plot", lambda: plot_groups(groups, options.plot, machine_line(machine)))
