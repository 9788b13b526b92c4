"""The command `python -m gruflax.bench`."""

import argparse
import json
from collections.abc import Sequence

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gruflax.bench.case import DEVICES, DTYPES, MODES, SCALING, Shape, describe_machine
from gruflax.bench.libraries import LIBRARIES
from gruflax.bench.measure import DisagreementError, Group, measure_group
from gruflax.bench.plan import MASKS, Task, plan
from gruflax.bench.report import (
    find_targets,
    group_table,
    machine_line,
    remarks,
    targets_table,
    to_json,
)
from gruflax.options import Parser, integer, one_of, output_path


def read_shape(text: str) -> Shape:
    """Reads "batch,time,features,units"."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"must be four positive integers, batch,time,features,units, not {text!r}"
        )
    return sizes


def read_seconds(text: str) -> float:
    """Reads a positive number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # Written so that nan is refused too.
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"must be seconds, above 0, up to 86400, not {text!r}")
    return seconds


def build_parser() -> Parser:
    """Builds the command line's parser."""
    parser = Parser(
        prog="gruflax.bench",
        usage="python -m gruflax.bench [options]",
        description="Times gruflax against the GRUs of the libraries that are installed: the same "
        "shapes, dtypes and work, interleaved in one process, each warm, compiled and with the "
        "same number of threads. Close other programs first; the full run takes some minutes.",
        epilog="The ratio of a contestant is the time of the best of the other JAX libraries over "
        "its own: above 1 it is faster than all of them. 'middle half' is from the first to the "
        "third quartile, 'compile' the time of tracing and compiling, 'memory' the peak temporary "
        "memory that the compiler planned and the native loop's own. A share is that of a GRU's "
        "products per second in those of a large square product; training counts each product "
        "twice more for the gradients, and not what is recomputed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--shapes",
        type=read_shape,
        nargs="+",
        metavar="B,T,F,U",
        help="batch,time,features,units of each case, instead of those of the full run, six on a "
        "CPU and six larger ones on a GPU",
    )
    what.add_argument(
        "--scaling",
        type=one_of(tuple(SCALING)),
        metavar="AXIS",
        help="a sweep instead: 'time' from 100 to 100,000 steps, 'units' from 32 to 1024",
    )
    what.add_argument(
        "--step",
        action="store_true",
        help="one step per call at batch 1 instead: the overhead of calling, against flax.linen's "
        "cell",
    )
    what.add_argument(
        "--variants",
        action="store_true",
        help="instead only what the full run ends with: vmapped parameters, gradients of every "
        "example, dropout, and bfloat16",
    )
    add(
        "--quick",
        action="store_true",
        help="two small shapes and one vmapped, one second each, gruflax and flax; other options "
        "still count",
    )
    add(
        "--peers",
        type=one_of(tuple(LIBRARIES)),
        nargs="+",
        metavar="NAME",
        help=f"libraries to compare with: {', '.join(LIBRARIES)} (default: all that are installed)",
    )
    add(
        "--chunks",
        type=integer(1, 10**6),
        nargs="+",
        default=[],
        metavar="K",
        help="also times the chunked loop with each of these numbers of steps per chunk",
    )
    add(
        "--masks",
        type=one_of(tuple(MASKS)),
        metavar="WHICH",
        help="'off', 'on' (right-padded sequences) or 'both' (default: both; with --quick off)",
    )
    add(
        "--dtypes",
        type=one_of(DTYPES),
        nargs="+",
        default=["float32"],
        metavar="DTYPE",
        help=f"some of {', '.join(DTYPES)} (default: float32)",
    )
    add(
        "--modes",
        type=one_of(MODES),
        nargs="+",
        default=list(MODES),
        metavar="MODE",
        help=f"some of {', '.join(MODES)} (default: both)",
    )
    add(
        "--device",
        type=one_of(DEVICES),
        metavar="NAME",
        help=f"{', '.join(DEVICES)} (default: the one that JAX prefers)",
    )
    add(
        "--seconds",
        type=read_seconds,
        metavar="S",
        help="for the timings of a case in a mode, all contestants together; at least five rounds "
        "are run (default: 10; with --quick 1)",
    )
    add("--json", type=output_path, metavar="FILE", help="writes everything as JSON")
    return parser


def run(tasks: Sequence[Task], console: Console) -> list[Group]:
    """Measures behind a progress bar, and prints each group as it is done."""
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


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = build_parser()
    options = parser.parse_args(argv)
    device = _device(parser, options.device)
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
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        text = json.dumps(to_json(groups, machine, settings), indent=1)
        try:
            options.json.write_text(text)
        except (OSError, ValueError) as error:
            parser.error(f"argument --json: {error}")
