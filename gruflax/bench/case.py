"""A benchmark case with its arrays, and a description of the machine."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np


# (batch, time, features, units).
Shape = tuple[int, int, int, int]

FORWARD, VALUE_AND_GRAD = "forward", "value_and_grad"
MODES = (FORWARD, VALUE_AND_GRAD)
DTYPES = ("float32", "bfloat16", "float16", "float64")
NARROW = ("bfloat16", "float16")
DEVICES = ("cpu", "gpu", "tpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """A GRU call that every contestant runs.

    Args:
        batch: number of sequences.
        time: number of steps of each sequence.
        features: size of the input at one step.
        units: size of the state.
        dtype: dtype of parameters, inputs and outputs, one of `DTYPES`. Default "float32".
        masked: whether the sequences are right-padded, with lengths from half of `time` to `time`.
            Default False.
        device: JAX's name of the platform, "cpu", "gpu" or "tpu". Default "cpu".
        members: if not 0, `jax.vmap` maps the call over this many sets of parameters, each with
            inputs of its own. Default 0.
        per_example: whether training returns the gradients of each sequence by itself. Default
            False.
        dropout: the rate of dropout for the inputs and for the states. Default 0.
    """

    batch: int
    time: int
    features: int
    units: int
    dtype: str = "float32"
    masked: bool = False
    device: str = "cpu"
    members: int = 0
    per_example: bool = False
    dropout: float = 0.0

    @property
    def shape(self) -> Shape:
        """Returns `(batch, time, features, units)`."""
        return self.batch, self.time, self.features, self.units

    @property
    def kind(self) -> str:
        """Returns the dtype and the options that are set; ratios are averaged over a kind."""
        traits = {
            "masked": self.masked,
            "vmapped parameters": self.members,
            "per-example gradients": self.per_example,
            f"dropout {self.dropout}": self.dropout,
        }
        return ", ".join((self.dtype, *(name for name, given in traits.items() if given)))

    @property
    def label(self) -> str:
        """Returns the number of members, if any, the shape and the kind."""
        members = f"{self.members} x " if self.members else ""
        return f"{members}{self.shape} {self.kind.replace(',', '')}"

    @property
    def jax_device(self) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm]
        """Returns the first JAX device of the platform."""
        return jax.devices(self.device)[0]

    def inputs(self) -> np.ndarray:
        """Returns `[b, t, f]` or `[members, b, t, f]` float32, the same for every contestant."""
        members = (self.members,) if self.members else ()
        return _normal(*members, self.batch, self.time, self.features)

    def lengths(self) -> np.ndarray | None:
        """Returns `[b]` int32, the number of valid steps of each sequence; None without a mask."""
        if not self.masked:
            return None
        draw = np.random.default_rng(1).integers((self.time + 1) // 2, self.time + 1, self.batch)
        return draw.astype(np.int32)

    def mask(self) -> np.ndarray | None:
        """Returns `[b, t]` bool, True at valid steps; None without a mask."""
        lengths = self.lengths()
        return None if lengths is None else np.arange(self.time) < lengths[:, None]


# All contestants of a case share one array.
@functools.lru_cache(maxsize=1)
def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@contextlib.contextmanager
def environment(case: Case) -> Iterator[None]:
    """Makes JAX work on the case's device and, for float64, in double precision."""
    with jax.default_device(case.jax_device), jax.enable_x64(case.dtype == "float64"):
        yield


DISTRIBUTIONS = "gruflax jax jaxlib flax dm-haiku equinox keras torch onnxruntime numpy".split()


def thread_count() -> int:
    """Returns the number of CPU threads that this process may use, which XLA uses too."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe_machine(device: str) -> dict[str, Any]:
    """Returns the names of the processor, the device and the system, and the versions installed."""
    versions = {each.name: each.version for each in importlib.metadata.distributions()}
    return {
        "cpu": _cpu_model(),
        "threads": thread_count(),
        "device": device,
        "device_kind": jax.devices(device)[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: versions[name] for name in DISTRIBUTIONS if name in versions},
    }


def _cpu_model() -> str:
    """Returns the name of the CPU, or its architecture where the system does not say the name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
