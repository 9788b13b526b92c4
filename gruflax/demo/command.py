"""The command `python -m gruflax.demo`: its options and its first lines.

JAX and Flax are imported after these lines, because that takes seconds.
"""

import argparse
import os

from rich.console import Console

from gruflax.options import Parser, integer, output_path


INTRODUCTION = "A masked GRU learns to name nine speakers by 270 utterances of 7 to 26 frames."
TIMING = "Timing the loops of gruflax and flax.linen: about 20 seconds, 40 on a slow CPU."

# The environment variables of JAX, Slurm and Open MPI that hold the number of this process.
_RANKS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


def build_parser() -> Parser:
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
        help="train nothing, but time gruflax's loops on this machine's CPU (about 20 seconds)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Runs the demo; of several processes only the first one prints and saves."""
    parser = build_parser()
    options = parser.parse_args(argv)
    timing = "loop" in options
    for name, value in vars(options).items() if timing else ():
        if name != "loop" and value != parser.get_default(name):
            parser.error(f"argument --loop: trains nothing, so it takes no --{name}")
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), None)
    console = Console(quiet=not timing and rank not in (None, "0"), highlight=False)
    console.print(TIMING if timing else INTRODUCTION)
    console.print("importing JAX and Flax ...")
    from gruflax.demo import run

    if timing:
        run.time_loops(console)
        return
    if rank is not None:
        console.print("joining the other processes, if there are any ...")
    run.run_training(parser, options, console)
