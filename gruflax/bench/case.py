"""What is measured: shapes, dtypes, masks, the arrays of a case, and the machine."""

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


Shape = tuple[int, int, int, int]

FORWARD, VALUE_AND_GRAD, STEP = "forward", "value_and_grad", "step"
MODES = (FORWARD, VALUE_AND_GRAD)
DTYPES = ("float32", "bfloat16", "float16", "float64")
NARROW = ("bfloat16", "float16")
DEVICES = ("cpu", "gpu", "tpu")

# (batch, time, features, units), over which the geometric means are taken.
TARGET_SHAPES: tuple[Shape, ...] = (
    (32, 100, 64, 128),
    (64, 200, 128, 256),
    (8, 1000, 32, 64),
    (256, 100, 64, 64),
    (1, 1000, 16, 32),
)
FULL_SHAPES: tuple[Shape, ...] = (*TARGET_SHAPES, (16, 50, 512, 1024))
GPU_SHAPES: tuple[Shape, ...] = (
    (64, 256, 128, 256),
    (16, 1024, 512, 512),
    (256, 128, 128, 128),
    (1, 4096, 64, 128),
    (128, 512, 1024, 1024),
    (2048, 64, 64, 256),
)
QUICK_SHAPES: tuple[Shape, ...] = ((1, 100, 16, 32), (16, 50, 32, 64))
STEP_SHAPES: tuple[Shape, ...] = ((1, 1, 16, 32), (1, 1, 64, 128), (1, 1, 128, 256))
MEMORY_SHAPE: Shape = (8, 4096, 64, 128)
SCALING: dict[str, tuple[Shape, ...]] = {
    "time": tuple((1, 10**power, 16, 32) for power in (2, 3, 4, 5)),
    "units": tuple((16, 100, 64, units) for units in (32, 64, 128, 256, 512, 1024)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem that every contestant solves, on a platform: "cpu", "gpu" or "tpu".

    Masked sequences are right-padded, with lengths from half to all of `time`. With `members`, as
    many sets of parameters, each with inputs of its own, are mapped by `jax.vmap`; `per_example`
    asks for the gradients of every sequence, and `dropout` is the rate for inputs and for states.
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
        """`(batch, time, features, units)`."""
        return self.batch, self.time, self.features, self.units

    @property
    def plain(self) -> bool:
        """Whether it is a call of a layer as it stands: nothing maps it, and it drops nothing."""
        return not (self.members or self.per_example or self.dropout)

    @property
    def kind(self) -> str:
        """What the cases of one ratio share: the dtype, and whatever else is not the default."""
        traits = {
            "masked": self.masked,
            "vmapped parameters": self.members,
            "per-example gradients": self.per_example,
            f"dropout {self.dropout}": self.dropout,
        }
        return ", ".join((self.dtype, *(name for name, given in traits.items() if given)))

    @property
    def label(self) -> str:
        """The number of members, if any, the shape and the kind."""
        members = f"{self.members} x " if self.members else ""
        return f"{members}{self.shape} {self.kind.replace(',', '')}"

    @property
    def jax_device(self) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm]
        """The first JAX device of the platform."""
        return jax.devices(self.device)[0]

    def inputs(self) -> np.ndarray:
        """Returns `[b, t, f]` or `[members, b, t, f]` float32, the same for every contestant."""
        members = (self.members,) if self.members else ()
        return _normal(*members, self.batch, self.time, self.features)

    def lengths(self) -> np.ndarray | None:
        """Returns `[b]` int32, the valid steps per sequence; None without a mask."""
        if not self.masked:
            return None
        draw = np.random.default_rng(1).integers((self.time + 1) // 2, self.time + 1, self.batch)
        return draw.astype(np.int32)

    def mask(self) -> np.ndarray | None:
        """Returns `[b, t]` bool, True where a step counts; None without a mask."""
        lengths = self.lengths()
        return None if lengths is None else np.arange(self.time) < lengths[:, None]


# What users wrap around a layer or ask of it, in float32 unless the command says otherwise.
VARIANTS: tuple[Case, ...] = (
    Case(16, 64, 32, 64, members=8),
    Case(32, 100, 64, 128, members=4),
    Case(4, 32, 8, 32, members=32),
    Case(1, 64, 32, 64, members=64),
    Case(16, 64, 32, 64, per_example=True),
    Case(32, 100, 64, 128, dropout=0.1),
)
NARROW_VARIANT = Case(32, 100, 64, 128, "bfloat16")
QUICK_VARIANT = Case(4, 20, 8, 16, members=4)


# Ten contestants a case share one draw.
@functools.lru_cache(maxsize=1)
def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@contextlib.contextmanager
def environment(case: Case) -> Iterator[None]:
    """Makes JAX work on the case's device and, for float64, in double precision."""
    with jax.default_device(case.jax_device), jax.enable_x64(case.dtype == "float64"):
        yield


DISTRIBUTIONS = (
    "gruflax",
    "jax",
    "jaxlib",
    "flax",
    "dm-haiku",
    "equinox",
    "keras",
    "torch",
    "onnxruntime",
    "numpy",
)


def thread_count() -> int:
    """Returns the number of CPU threads that this process may use, which is what XLA uses."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe_machine(device: str) -> dict[str, Any]:
    """Describes the machine and what is installed."""
    return {
        "cpu": _cpu_model(),
        "threads": thread_count(),
        "device": device,
        "device_kind": jax.devices(device)[0].device_kind,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in DISTRIBUTIONS if (version := _version(name))},
    }


def _cpu_model() -> str:
    """Returns the CPU's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
