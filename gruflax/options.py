"""Command-line options of the demo and the bench: readers whose errors are one line, and Ctrl-C."""

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn


def exit_on_interrupt(program: str) -> None:
    """Makes Ctrl-C end the process at once, with one line and exit code 130.

    A KeyboardInterrupt could be swallowed in a destructor or during the import of a library.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        # os.write instead of sys.stderr: the signal may interrupt a print.
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # shows the cursor, which a progress bar hides
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(128 + number)

    signal.signal(signal.SIGINT, leave)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def integer(low: int, high: int) -> Callable[[str], int]:
    """Returns a reader of an option that is an integer from `low` to `high`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"must be an integer from {low} to {high}, not {text!r}"
            )
        return number

    return read


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Returns a reader of an option that is one of the words `choices`."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return read


def output_path(text: str) -> Path:
    """Reads the path of a file to write, and checks it before any work is done."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path
