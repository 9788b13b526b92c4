"""Stage 2: every loop against float64 on the CPU; a process for each, so that one hides no other.

Where full precision is asked for, the error says whether it was given: TF32 keeps 10 bits of each
factor, and float32 23.
"""

import collections
import multiprocessing
import os
import pathlib
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
from cases import CASES, Case, draw, largest_error, loss_of, program_of, reference
from record import Record, is_deadly, one_line, options, platform, read, stand_in_for_cudnn


PATHS = ("cudnn", "chunked", "use_cudnn", "scan")
DTYPES = ("float32", "bfloat16", "float16")
# The largest relative error of an array. On a CPU the scan and the chunked loop have at most 2e-6,
# 5e-3 and 4e-2; products in TF32 are as exact as those in float16.
TOLERANCES = {"float32": 5e-5, "TF32": 1e-2, "float16": 1e-2, "bfloat16": 1e-1}
# What cuDNN has not, and says so: by a ValueError, or JAX' own TypeError of forward mode.
REFUSED = {
    "resets": "reset must be None",
    "reset before": "reset_after must be True",
    "forward mode": "forward-mode",
}
# A process that died is started again. What it may have died of comes last there, once.
ATTEMPTS = 3


def judge(case: Case, dtype: str, error: float) -> dict[str, str]:
    """Says what an error means."""
    kind = "TF32" if dtype == "float32" and case.precision is None else dtype
    facts = {"verdict": "right" if error <= TOLERANCES[kind] else "WRONG"}
    if dtype == "float32":
        limits = {"float32": 1e-5, "unclear": TOLERANCES["float32"]}
        names = (name for name, limit in limits.items() if error <= limit)
        facts["products"] = next(names, "TF32 or worse")
    return facts


def compare(case: Case, dtype: str, path: str, dry: bool) -> dict[str, object]:
    """Computes one case on the device, and says how far it is from the reference."""
    try:
        arrays = draw(case, dtype, dry)
        run = program_of(case.change, loss_of(case, path, arrays.weights))
        found = jax.block_until_ready(run(*arrays.arguments))
        error = largest_error(found, reference(case, arrays))
    except Exception as failure:
        known = "cudnn" in path and case.name in REFUSED and REFUSED[case.name] in str(failure)
        return {"verdict": "refused" if known else "FAILED", "reason": one_line(failure)}
    return {"error": error, **judge(case, dtype, error)}


def jobs(path: str, dry: bool) -> list[tuple[Case, str]]:
    """Lists the cases of a loop: float32 first, which most people use."""
    if not dry:
        return [(case, dtype) for dtype in DTYPES for case in CASES]
    # Each case by one of the loops, one of them in every dtype.
    mine = [case for index, case in enumerate(CASES) if index % len(PATHS) == PATHS.index(path)]
    return [*((case, "float32") for case in mine), *((mine[0], dtype) for dtype in DTYPES[1:])]


def jobs_left(path: str, folder: pathlib.Path, dry: bool) -> list[tuple[Case, str]]:
    """Lists what is not judged yet; what was begun before a process died comes last, and once."""
    begun, judged = collections.Counter(), set()
    for fact in read(folder)["exactness"]:
        if fact.get("path") == path and "case" in fact:
            key = fact["case"], fact["dtype"]
            begun[key] += "begun" in fact
            judged |= {key} if "verdict" in fact else set()
    keys = {(case.name, dtype): (case, dtype) for case, dtype in jobs(path, dry)}
    left = [key for key in keys if key not in judged and begun[key] < 2]
    return [keys[key] for key in sorted(left, key=begun.__getitem__)]


def run_path(path: str, folder: pathlib.Path, dry: bool, threads: int) -> None:
    """Compares the cases of one loop that are left; several compile at a time."""
    warnings.filterwarnings("ignore", "Some donated buffers")
    record = Record("exactness", folder)
    if dry:
        stand_in_for_cudnn()

    def one(job: tuple[Case, str]) -> None:
        case, dtype = job
        names = {"path": path, "case": case.name, "dtype": dtype}
        record(**names, begun=True)
        start = time.monotonic()
        with jax.default_device(jax.devices(platform(dry))[0]):
            facts = compare(case, dtype, path, dry)
        record(**names, **facts, seconds=time.monotonic() - start)
        if is_deadly(str(facts.get("reason", ""))):
            os._exit(3)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, jobs_left(path, folder, dry)))


def watch_path(path: str, folder: pathlib.Path, dry: bool) -> None:
    """Runs a process for one loop; after one that died, another one that takes no risks."""
    for attempt in range(ATTEMPTS):
        # One call of NumPy's cuDNN at a time: its arrays of buffers need the lock of Python.
        threads = 1 if dry or attempt else 4
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=run_path, args=(path, folder, dry, threads))
        process.start()
        process.join()
        if not process.exitcode:
            return
        Record("exactness", folder)(path=path, died=process.exitcode)


def main() -> None:
    """Runs the stage."""
    chosen = options()
    record = Record("exactness", chosen.folder)
    for path in PATHS:
        record(path=path, planned=len(jobs(path, chosen.dry)))
    watchers = [
        threading.Thread(target=watch_path, args=(path, chosen.folder, chosen.dry))
        for path in PATHS
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()


if __name__ == "__main__":
    main()
