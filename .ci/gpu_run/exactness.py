"""Stage 2: every loop against float64 on the CPU; a process for each, so that one hides no other.

Where full precision is asked for, the error says whether it was given: TF32 keeps 10 bits of each
factor, and float32 23.
"""

import multiprocessing
import pathlib
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from cases import CASES, Case, draw, largest_error, loss_of, program_of, reference
from record import Record, one_line, options, platform, stand_in_for_cudnn


PATHS = ("cudnn", "chunked", "use_cudnn", "scan")
DTYPES = ("float32", "bfloat16", "float16")
# The largest relative error of an array, two to six times that of the scan on a CPU. Products in
# TF32 are as exact as those in float16, and far beyond what float32 is allowed.
TOLERANCES = {"float32": 1e-5, "TF32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1}
# What cuDNN has not, and says so: by a ValueError, or JAX' own TypeError of forward mode.
REFUSED = ("cannot be met", "forward-mode")


def judge(case: Case, dtype: str, error: float) -> dict[str, str]:
    """Says what an error means."""
    kind = "TF32" if dtype == "float32" and case.precision is None else dtype
    facts = {"verdict": "right" if error <= TOLERANCES[kind] else "WRONG"}
    if dtype == "float32":
        facts["products"] = "float32" if error <= TOLERANCES["float32"] else "TF32 or worse"
    return facts


def compare(case: Case, dtype: str, path: str, dry: bool) -> dict[str, object]:
    """Computes one case on the device, and says how far it is from the reference."""
    arrays = draw(case, dtype, dry)
    try:
        run = program_of(case.change, loss_of(case, path, arrays.weights))
        found = jax.block_until_ready(run(*arrays.arguments))
    except Exception as error:
        refused = any(clause in str(error) for clause in REFUSED)
        return {"verdict": "refused" if refused else "FAILED", "reason": one_line(error)}
    error = largest_error(found, reference(case, arrays))
    return {"error": error, **judge(case, dtype, error)}


def jobs(path: str, dry: bool) -> list[tuple[Case, str]]:
    """Lists the cases of a loop: float32 first, which most people use."""
    if not dry:
        return [(case, dtype) for dtype in DTYPES for case in CASES]
    # Each case by one of the loops, one of them in every dtype.
    mine = [case for index, case in enumerate(CASES) if index % len(PATHS) == PATHS.index(path)]
    return [*((case, "float32") for case in mine), *((mine[0], dtype) for dtype in DTYPES[1:])]


def run_path(path: str, folder: pathlib.Path, dry: bool) -> None:
    """Compares all cases of one loop; several compile at a time."""
    warnings.filterwarnings("ignore", "Some donated buffers")
    record = Record("exactness", folder)
    if dry:
        stand_in_for_cudnn()

    def one(job: tuple[Case, str]) -> None:
        case, dtype = job
        start = time.monotonic()
        with jax.default_device(jax.devices(platform(dry))[0]):
            facts = compare(case, dtype, path, dry)
        record(path=path, case=case.name, dtype=dtype, **facts, seconds=time.monotonic() - start)

    # One call of the stand-in at a time: NumPy's array of a buffer needs the lock of Python.
    with ThreadPoolExecutor(1 if dry else 4) as pool:
        list(pool.map(one, jobs(path, dry)))


def main() -> None:
    """Runs the stage."""
    chosen = options()
    record = Record("exactness", chosen.folder)
    start = multiprocessing.get_context("spawn").Process
    processes = {
        path: start(target=run_path, args=(path, chosen.folder, chosen.dry)) for path in PATHS
    }
    for process in processes.values():
        process.start()
    for path, process in processes.items():
        process.join()
        if process.exitcode:
            record(path=path, died=process.exitcode)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
