"""The command `python -m gruflax.demo`: its options, its progress and its results."""

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import serialization
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gruflax import hosts
from gruflax.bench.own_loops import loops_note, loops_table
from gruflax.demo.training import Outcome, Report, train
from gruflax.options import Parser, integer, output_path


INTRODUCTION = "A masked GRU learns to name nine speakers by 270 utterances of 7 to 26 frames."


def build_parser() -> argparse.ArgumentParser:
    """Builds the command line's parser."""
    parser = Parser(
        prog="gruflax.demo",
        usage="python -m gruflax.demo [options]",
        description=f"{INTRODUCTION} It is tested on 370 others (Japanese Vowels).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--units", type=integer(1, 4096), default=100, metavar="N", help="size of the GRU's state")
    add("--epochs", type=integer(1, 10**6), default=100, metavar="N", help="passes over the data")
    add("--seed", type=integer(0, 2**32 - 1), default=0, metavar="N", help="of all random draws")
    add(
        "--output",
        type=output_path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="file for the trained parameters, as msgpack (flax.serialization.to_bytes); "
        "nothing is saved without it",
    )
    add(
        "--loop",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train nothing, but time gruflax's loops on this machine's CPU for some seconds",
    )
    return parser


@contextlib.contextmanager
def _progress(console: Console, epochs: int) -> Iterator[Report]:
    """Shows the progress of training: a bar on a terminal, else a line every few seconds."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_report(console, epochs)
        return
    columns = (
        TextColumn("epoch"),
        # The other columns of the line take 34 characters.
        BarColumn(bar_width=max(4, min(40, console.width - 36))),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=epochs, loss="...")
        yield lambda epoch, loss: progress.update(task, completed=epoch, loss=f"{loss:.3f}")


SECONDS_PER_LINE = 5.0


def _line_report(console: Console, epochs: int) -> Report:
    """Makes a function that prints the first epoch, the last, and one every few seconds."""
    start = last = time.perf_counter()

    def report(epoch: int, loss: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if epoch in (1, epochs) or now - last >= SECONDS_PER_LINE:
            last = now
            console.print(f"epoch {epoch}/{epochs}, loss {loss:.3f}, {now - start:.1f} s")

    return report


def _summary(outcome: Outcome) -> Table:
    """Puts the results of a run in a table."""
    leaves = jax.tree.leaves(outcome.params)
    (device,) = leaves[0].devices()
    # Without an edge every row fits into 40 columns.
    table = Table(show_header=False, show_edge=False, caption="Accuracies are without dropout.")
    table.add_row("test accuracy", _share(outcome.correct))
    table.add_row("train accuracy", _share(outcome.train_correct))
    table.add_row("seconds in all", f"{outcome.seconds:.1f}")
    table.add_row("parameters", f"{sum(leaf.size for leaf in leaves):,}")
    table.add_row("device", f"{device.platform} ({device.device_kind})")
    if jax.process_count() > 1:
        table.add_row("devices in all", f"{jax.device_count()} in {jax.process_count()} processes")
    return table


def _share(correct: np.ndarray) -> str:
    return f"{100 * correct.mean():.2f} % ({correct.sum()} of {len(correct)})"


def _save(path: Path, params: object) -> str:
    """Saves parameters, and returns a line of Python that loads them."""
    path.write_bytes(serialization.to_bytes(params))
    return (
        "import flax, pathlib; params = flax.serialization.msgpack_restore"
        f"(pathlib.Path({str(path.absolute())!r}).read_bytes())"
    )


def main(argv: list[str] | None = None) -> None:
    """Runs the demo; of several processes only the first one prints and saves."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if "loop" in options:
        _time_loops(parser, options)
        return
    try:
        hosts.join()
    except (RuntimeError, ValueError) as error:
        parser.error(f"joining the other processes: {error}")
    first = jax.process_index() == 0
    console = Console(quiet=not first)
    console.print(INTRODUCTION, highlight=False)
    with _progress(console, options.epochs) as report:
        outcome = train(options.units, options.epochs, options.seed, report)
    console.print(_summary(outcome))
    if first and "output" in options:
        try:
            line = _save(options.output, outcome.params)
        except OSError as error:
            parser.error(f"argument --output: {error.strerror}: {str(options.output)!r}")
        console.print("The parameters are saved. To load them:")
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _time_loops(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Prints the times of the loops; exits with an error if options of training were given."""
    given = {name: value for name, value in vars(options).items() if name != "loop"}
    for name, value in given.items():
        if value != parser.get_default(name):
            parser.error(f"argument --loop: trains nothing, so it takes no --{name}")
    console = Console()
    console.print(loops_note(), highlight=False)
    console.print(loops_table())
