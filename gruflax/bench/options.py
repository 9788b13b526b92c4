"""The benchmark's command line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gruflax.bench.case import DEVICES, DTYPES, MODES, SCALING, Shape
from gruflax.bench.peers import LIBRARIES


MASKS = {"off": (False,), "on": (True,), "both": (False, True)}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


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


def read_steps(text: str) -> int:
    """Reads a positive number of steps."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


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


def read_output_path(text: str) -> Path:
    """Reads a file to write, so that a wrong path is told before measuring and not after."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Makes the reader of an option that is one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return read


def build_parser() -> Parser:
    """Builds the command line's parser."""
    parser = Parser(
        prog="gruflax.bench",
        usage="python -m gruflax.bench [options]",
        description="Times gruflax against the GRUs of the libraries that are installed: the same "
        "shapes, dtypes and work, interleaved in one process, each warm, compiled and with as many "
        "threads. The matmul floor is the products of a GRU without its gates: the limit. Close "
        "other programs first; the full run takes some minutes.",
        epilog="The ratio of a contestant is the time of the best of the other JAX libraries over "
        "its own: above 1 is faster than all of them. 'middle half' is from the first to the third "
        "quartile, 'compile' the time of tracing and compiling, 'memory' the peak temporary memory "
        "that the compiler planned.",
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
        "CPU and five larger ones on a GPU",
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
        help="one step a call at batch 1 instead: the overhead of calling, against flax.linen's "
        "cell",
    )
    add(
        "--quick",
        action="store_true",
        help="two small shapes, one second each, gruflax and flax; other options still count",
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
        type=read_steps,
        nargs="+",
        default=[],
        metavar="K",
        help="times the chunked loop with so many steps a chunk too",
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
    add("--json", type=read_output_path, metavar="FILE", help="writes everything as JSON")
    add(
        "--plot",
        type=read_output_path,
        metavar="FILE",
        help="writes a picture, such as bench.png (needs matplotlib)",
    )
    return parser
