"""What the command does once JAX and Flax are imported: it trains, or times the loops."""

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
from gruflax.options import Parser


def run_training(parser: Parser, options: argparse.Namespace, console: Console) -> None:
    """Trains; of several processes only the first one prints and saves."""
    try:
        hosts.join()
    except (RuntimeError, ValueError) as error:
        parser.error(f"joining the other processes: {error}")
    first = jax.process_index() == 0
    console.quiet = not first
    with _progress(console, options.epochs) as report:
        outcome = train(options.units, options.epochs, options.seed, report)
    console.print(_summary(outcome))
    if first and "output" in options:
        try:
            line = _save(options.output, outcome.params)
        except OSError as error:
            parser.error(f"argument --output: {error.strerror}: {str(options.output)!r}")
        console.print("The parameters are saved. To load them:")
        console.print(line, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(console: Console, epochs: int) -> Iterator[Report]:
    """Shows the progress of training: a bar on a terminal, else a line every few seconds.

    Before the first epoch is compilation, and after the last one the test.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield _line_report(console, epochs)
        return
    columns = (
        TextColumn("{task.description}"),
        # The other columns of the line take up to 36 characters.
        BarColumn(bar_width=max(4, min(40, console.width - 38))),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("compiling", total=epochs, loss="...")

        def report(epoch: int, loss: float) -> None:
            part = "epoch" if epoch < epochs else "testing"
            progress.update(task, description=part, completed=epoch, loss=f"{loss:.3f}")

        yield report
        progress.update(task, description="epoch")


SECONDS_PER_LINE = 5.0


def _line_report(console: Console, epochs: int) -> Report:
    """Makes a function that prints the first epoch, the last, and one every few seconds."""
    start = last = time.perf_counter()
    console.print("compiling (half a minute on a slow machine) ...")

    def report(epoch: int, loss: float) -> None:
        nonlocal last
        now = time.perf_counter()
        if epoch in (1, epochs) or now - last >= SECONDS_PER_LINE:
            last = now
            console.print(f"epoch {epoch}/{epochs}, loss {loss:.3f}, {now - start:.1f} s")
        if epoch == epochs:
            console.print("testing ...")

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


def time_loops(console: Console) -> None:
    """Prints the times of the loops."""
    console.print(loops_note())
    console.print(loops_table(console.print))
