"""Stage 1: the card, its driver, the versions, and the rates that all others are measured by."""

import importlib.metadata
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from record import Record, one_line, options


SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,utilization.gpu"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "equinox", "chex", "rich")


def version(package: str) -> str | None:
    """Returns the version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def smi() -> str:
    """Returns what the driver says of the card."""
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(error)


def median_seconds(run: Callable[[], jax.Array]) -> float:
    """Returns the median time of a call, each one waited for."""
    jax.block_until_ready(run())
    samples = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(run())
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def rates(record: Record, dry: bool) -> None:
    """Measures products and a copy of the device's memory."""
    size = 256 if dry else 8192
    for name, dtype, precision in (
        ("float32", "float32", "highest"),
        ("TF32", "float32", None),
        ("bfloat16", "bfloat16", None),
    ):
        square = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        dot = jax.jit(lambda a, precision=precision: jnp.dot(a, a, precision=precision))
        seconds = median_seconds(lambda dot=dot, square=square: dot(square))
        record(rate=name, teraflops=2 * size**3 / seconds / 1e12)
    count = 2**18 if dry else 2**28
    numbers, copy = jnp.ones(count), jax.jit(jnp.negative)
    seconds = median_seconds(lambda: copy(numbers))
    record(rate="copy", gigabytes_per_second=2 * numbers.nbytes / seconds / 1e9)


def main() -> None:
    """Runs the stage."""
    chosen = options()
    record = Record("card", chosen.folder)
    record(python=sys.version.split()[0], **{name: version(name) for name in PACKAGES})
    if not chosen.dry:
        record(nvidia_smi=smi())
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    record(device=device.device_kind, platform=device.platform, compute_capability=capability)
    try:
        from gruflax.functional.loops.cudnn.library import load_cudnn

        record(cudnn=load_cudnn().version, path=load_cudnn()._library._name)
    except Exception as error:
        record(cudnn=None, reason=one_line(error))
    rates(record, chosen.dry)


if __name__ == "__main__":
    main()
