"""What the stages of the GPU run share: their options, and the file that they write facts to."""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import time
from typing import Any


FILE = "results.jsonl"
Facts = dict[str, Any]


class Record:
    """Appends facts to a file as they are found, and prints them."""

    def __init__(self, stage: str, folder: pathlib.Path):
        self.stage, self.path, self.start = stage, folder / FILE, time.monotonic()

    def __call__(self, **facts: Any) -> None:
        """Writes one fact: a line that is whole or not there, whoever else writes."""
        line = json.dumps({"stage": self.stage, **facts}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
        said = " ".join(f"{name}={brief(value)}" for name, value in facts.items())
        print(f"[{time.monotonic() - self.start:5.1f} s] {said}", flush=True)


def read(folder: pathlib.Path) -> dict[str, list[Facts]]:
    """Reads the facts of each stage; what is no fact, such as a line that was cut, is left out."""
    facts, path = collections.defaultdict(list), folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            fact = json.loads(line)
            facts[str(fact.pop("stage"))].append(fact)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return facts


def brief(value: Any) -> str:
    """Returns a value as a log shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def one_line(error: BaseException) -> str:
    """Returns what an error says, in one line that is not too long."""
    text = " ".join(str(error).split())
    # XLA puts a callback's traceback before what cuDNN said.
    at = max(0, text.rfind("CudnnError"))
    return f"{type(error).__name__}: {text[at:]}"[:300]


# After these CUDA does nothing more in a process.
_DEADLY = ("CUDA_ERROR", "illegal", "misaligned", "EXECUTION_FAILED")


def is_deadly(reason: str) -> bool:
    """Returns whether all that a process asks of a GPU fails after such an error."""
    return any(word in reason for word in _DEADLY)


def options() -> argparse.Namespace:
    """Reads the command line of a stage: `folder` and `dry`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dry", action="store_true")
    return parser.parse_args()


def platform(dry: bool) -> str:
    """Returns JAX's name of what is asked."""
    return "cpu" if dry else "gpu"


# What ends with the process.
_to_the_end = contextlib.ExitStack()


def stand_in_for_cudnn() -> None:
    """In a dry run, has NumPy do what cuDNN does, to the end of the process."""
    from numpy_cudnn import NumpyCudnn, in_place_of_cudnn

    _to_the_end.enter_context(in_place_of_cudnn(NumpyCudnn()))
