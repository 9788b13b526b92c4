"""How the commands read their options and end: errors are one line, told before anything runs."""

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn


def exit_on_interrupt(program: str) -> None:
    """Makes Ctrl-C end the process at once, with one line and exit code 130.

    As an exception it would get lost in a destructor or in a library that is being imported.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        # Not by sys.stderr: the signal may have come in the middle of a print.
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # the cursor, which a progress bar hides
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(128 + number)

    signal.signal(signal.SIGINT, leave)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def integer(low: int, high: int) -> Callable[[str], int]:
    """Makes the reader of an option that is an integer in a range."""

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
    """Makes the reader of an option that is one of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return read


def output_path(text: str) -> Path:
    """Reads a file to write, so that a wrong path is told before any work and not after."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path
