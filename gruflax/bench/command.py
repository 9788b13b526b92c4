"""The command `python -m gruflax.bench`."""

import argparse
from collections.abc import Sequence

import jax
from rich.console import Console
from rich.progress import track

from gruflax.bench.case import DEVICES, DTYPES, MODES, Shape, describe_machine
from gruflax.bench.libraries import LIBRARIES
from gruflax.bench.measure import DisagreementError, Group, measure_group
from gruflax.bench.plan import MASK_CHOICES, Task, plan
from gruflax.bench.report import group_table, machine_line, ratios_table, remarks
from gruflax.options import Parser, integer, one_of


DESCRIPTION = """\
Times gruflax against the GRUs of the libraries that are installed: the same shapes, dtypes,
parameters and work, in turn in one process, each warm, compiled and with the same number of
threads. Close other programs first; the full run takes some minutes."""

EPILOG = """\
The ratio of a contestant is the time of the best of the other JAX libraries over its own: above 1
it is faster than all of them. 'middle half' is from the first to the third quartile, 'compile' the
time of tracing and compiling, 'memory' the peak temporary memory that the compiler planned and the
native loop's own."""


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


def build_parser() -> Parser:
    """Builds the command line's parser."""
    parser = Parser(
        prog="gruflax.bench",
        usage="python -m gruflax.bench [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    shapes = "batch,time,features,units of each case, instead of the six of the full run"
    what.add_argument("--shapes", type=read_shape, nargs="+", metavar="B,T,F,U", help=shapes)
    variants = "only vmapped parameters, gradients of every example, dropout, and bfloat16"
    what.add_argument("--variants", action="store_true", help=variants)
    quick = "small cases, one second each, gruflax and flax; other options still count"
    add("--quick", action="store_true", help=quick)
    masks = "'off', 'on' (right-padded sequences) or 'both' (default: both; with --quick off)"
    add("--masks", type=one_of(tuple(MASK_CHOICES)), metavar="WHICH", help=masks)
    lists = (
        ("--peers", tuple(LIBRARIES), None, "all that are installed"),
        ("--dtypes", DTYPES, ["float32"], "float32"),
        ("--modes", MODES, list(MODES), "both"),
    )
    for option, choices, default, told in lists:
        words = f"some of {', '.join(choices)} (default: {told})"
        add(option, type=one_of(choices), nargs="+", default=default, metavar="NAME", help=words)
    devices = f"{', '.join(DEVICES)} (default: the one that JAX prefers)"
    add("--device", type=one_of(DEVICES), metavar="NAME", help=devices)
    seconds = "to time a case in a mode, at least five rounds (default: 10; with --quick 1)"
    add("--seconds", type=integer(1, 86400), metavar="S", help=seconds)
    return parser


def run(tasks: Sequence[Task], console: Console) -> list[Group]:
    """Measures tasks with a progress bar, and prints each group when it is done."""
    groups = []
    for task in track(tasks, "measuring", console=console):
        groups.append(measure_group(*task))
        console.print(group_table(groups[-1]))
    return groups


def _device(parser: Parser, wanted: str | None) -> str:
    """Returns the platform to measure, or exits with one line if JAX does not have it."""
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
    console.print(machine_line(describe_machine(device)), markup=False, highlight=False)
    try:
        groups = run(plan(options, device), console)
    except DisagreementError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    for line in remarks(groups):
        console.print(line, markup=False, highlight=False, style="dim")
    console.print(ratios_table(groups))
