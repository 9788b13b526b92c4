"""Finding and loading the kernel's library, and what it can do."""

import ctypes
import functools
import importlib.metadata
import os
import pathlib
import threading
from typing import NamedTuple

import jax

import gruflax.functional.loops.native as room


FORWARD, BACKWARD = "gruflax_forward", "gruflax_backward"

_VARIABLE = "GRUFLAX_NATIVE"
_NAME = "libgruflax.so"
# The version of the interface between `ffi` and kernel/ffi.cc.
_INTERFACE = 2
_LOCK = threading.Lock()


class NativeInfo(NamedTuple):
    """Whether the native loop can run here.

    Attributes:
        available: True if the kernel's library is loaded.
        instruction_set: the instructions it uses, "avx512", "avx2" or "baseline"; None if it is not
            available.
        reason: why it is not available; None if it is.
    """

    available: bool
    instruction_set: str | None
    reason: str | None


def native_info() -> NativeInfo:
    """Tells whether the native loop is available, with which instructions, or why it is not.

    The environment variable `GRUFLAX_NATIVE` is read once: "0" turns the native loop off; "avx512",
    "avx2" or "baseline" chooses the instructions. Without it, the best ones of this CPU are used.

    Returns:
        `NativeInfo`.

    Raises:
        ValueError: `GRUFLAX_NATIVE` names instructions that this CPU or this build lacks.
    """
    # If two threads ask for the first time together, only one of them may load it.
    with _LOCK:
        return _load()


@functools.cache
def _load() -> NativeInfo:
    wanted = os.environ.get(_VARIABLE) or None
    if wanted == "0":
        return NativeInfo(False, None, f"{_VARIABLE}=0 turns it off")
    path = _find()
    if path is None:
        return NativeInfo(
            False, None, "gruflax was installed without a C++ compiler: its kernel was not built"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return NativeInfo(False, None, f"its library does not load: {error}")
    if library.gruflax_interface() != _INTERFACE:
        return NativeInfo(False, None, f"{path} is of another version of gruflax")
    library.gruflax_use.restype = ctypes.c_char_p
    library.gruflax_peak_scratch.restype = ctypes.c_size_t
    chosen = library.gruflax_use(wanted and wanted.encode())
    if chosen is None:
        raise ValueError(
            f"{_VARIABLE} must be 0, or instructions that this CPU has, got {wanted!r}."
        )
    for target in (FORWARD, BACKWARD):
        jax.ffi.register_ffi_target(
            target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
        )
    _loaded.append(library)
    return NativeInfo(True, chosen.decode(), None)


# The library, once it is loaded. It is never unloaded, because XLA keeps its functions.
_loaded: list[ctypes.CDLL] = []


def use_instructions(name: str | None) -> bool:
    """Switches to other instructions; returns False if this CPU does not have them."""
    return _loaded[0].gruflax_use(name and name.encode()) is not None


def peak_scratch_bytes() -> int:
    """Returns the peak of scratch memory since the last call of this function."""
    return _loaded[0].gruflax_peak_scratch() if native_info().available else 0


def _find() -> pathlib.Path | None:
    # In an editable installation this package has two folders, of the sources and of built files.
    # If Python imports a checkout instead of the package that was installed from it, the library is
    # in the installed package only.
    folders = [pathlib.Path(folder) for folder in room.__path__]
    try:
        installed = importlib.metadata.distribution("gruflax").locate_file("")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        folders.append(pathlib.Path(str(installed), *room.__name__.split(".")))
    return next((folder / _NAME for folder in folders if (folder / _NAME).exists()), None)
