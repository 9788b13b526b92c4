"""What the benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax


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
    """Describes the machine and what is installed.

    Args:
        device: the platform that is measured: "cpu", "gpu" or "tpu".

    Returns:
        `cpu`, `threads`, `device`, `device_kind`, `system`, `python` and `versions`, a dict.
    """
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
