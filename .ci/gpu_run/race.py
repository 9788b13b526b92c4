"""Contestants timed in turn, each in a process of its own, so that one that hangs can be cut.

The method is that of `gruflax.bench`: each is warm, a sample is a few calls that are waited for,
the order is new in each round, and the median counts. Only the processes are more.
"""

import collections
import contextlib
import importlib
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from contestants import DRY, EVERYONE, SAME
from record import Record, is_deadly, one_line, platform, stand_in_for_cudnn

from gruflax.bench.case import Case, Shape, environment
from gruflax.bench.measure import LEAST_ROUNDS, sample, warm_up


# Seconds in which a process must start, a program be built, and a sample be run. On a CPU all
# share few cores.
START, BUILD, CUT = 60.0, 30.0, 20.0
DRY_BUILD, DRY_SECONDS, TINY = 150.0, 0.2, (3, 6, 4, 5)
# With less left of a stage, no case is begun.
LEAST_SECONDS = 5.0
# A contestant that was cut or died so often takes part no more: it costs the others their time.
STRIKES = 3


def memory(case: Case, anew: bool = False) -> tuple[int, int]:
    """Returns what this process holds on the device, and the most so far; torch can begin anew."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        if anew:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    stats = case.jax_device.memory_stats() or {}
    return stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)


def build(make: Any, case: Case, mode: str, programs: dict[str, Any]) -> dict[str, Any]:
    """Compiles a program, runs it once, and says what that took; its loss is to compare."""
    start = time.perf_counter()
    with environment(case):
        programs["now"] = program = make(case, mode)
        # What compiling, drawing and the arguments took is not the program's.
        held, before = memory(case, anew=True)
        outcome = program.run()
    seconds, (_, after) = time.perf_counter() - start, memory(case)
    facts = {"build_seconds": seconds, "compile_seconds": program.compile_seconds}
    # JAX counts from the start of a process: only what rises above all before is known.
    facts["peak_bytes"] = after - held if after > before else None
    leaves = jax.tree.leaves(outcome)
    if program.temp_bytes is None or not isinstance(leaves[0], jax.Array):
        return facts
    # Outputs, or a loss and its gradients.
    results = sum(leaf.nbytes for leaf in leaves)
    check = float(np.mean(np.square(np.asarray(leaves[0], np.float64))))
    return {**facts, "planned_bytes": program.temp_bytes + results, "check": check}


def work(pipe: Any, name: str, dry: bool) -> None:
    """Does what it is told, in a process of its own, and answers."""
    if dry:
        stand_in_for_cudnn()
    if name == "torch":
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    jax.devices()
    programs: dict[str, Any] = {}
    pipe.send("ready")
    while True:
        try:
            order, *details = pipe.recv()
        except EOFError:
            return
        try:
            if order == "build":
                programs.clear()
                pipe.send(build(EVERYONE[name], *details, programs))
            elif order == "warm":
                pipe.send(warm_up(programs["now"].run, time.perf_counter))
            else:
                pipe.send(sample(programs["now"].run, *details, time.perf_counter))
        except Exception as error:
            pipe.send({"error": one_line(error)})
            if is_deadly(one_line(error)):
                os._exit(3)


class Worker:
    """A contestant's process; started anew after it was cut or died."""

    def __init__(self, name: str, dry: bool):
        self.name, self.dry, self.process = name, dry, None
        self.start()

    def start(self) -> None:
        """Starts the process, and does not wait for it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.name, self.dry), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False

    def tell(self, until: float, *order: Any) -> None:
        """Gives an order, once the process has started."""
        if not self.process.is_alive():
            self.start()
        if not self.ready:
            self.ready = self.answer(min(until, time.monotonic() + START)) == "ready"
        with contextlib.suppress(OSError):
            # Of one that died its answer tells.
            self.pipe.send(order)

    def answer(self, until: float) -> Any:
        """Waits for an answer; cuts the process where none comes."""
        begun = time.monotonic()
        try:
            if self.pipe.poll(max(0.0, until - begun)):
                return self.pipe.recv()
            reason = f"cut after {time.monotonic() - begun:.0f} s"
        except (EOFError, OSError):
            self.process.join()
            reason = f"died: {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        return {"error": reason}


class Race:
    """Workers of one stage, up to a deadline."""

    def __init__(self, names: Iterable[str], record: Record, dry: bool, seconds: float):
        names = [name for name in names if not dry or name in DRY]
        self.workers = {name: Worker(name, dry) for name in names}
        self.record, self.deadline = record, time.monotonic() + seconds
        self.dry, self.build_seconds = dry, DRY_BUILD if dry else BUILD
        self.strikes: collections.Counter[str] = collections.Counter()

    def left(self) -> float:
        """Returns the seconds to the deadline."""
        return self.deadline - time.monotonic()

    def run(self, case: Case, mode: str, seconds: float) -> None:
        """Times all workers on a case, and records each one's median or what kept it from one."""
        facts = {"case": f"{case.shape}", "dtype": case.dtype, "mode": mode}
        built = self._build(case, mode)
        samples = self._time([name for name in built if "error" not in built[name]], seconds)
        for name, each in built.items():
            found = samples.get(name, [])
            if found and isinstance(found[-1], dict):
                each = {**each, **found.pop()}
            self.strikes[name] += each.get("error", "").startswith(("cut", "died"))
            median = statistics.median(found) if found else None
            self.record(**facts, name=name, median=median, rounds=len(found), **_known(each))
        checks = [built[name]["check"] for name in SAME & built.keys() if "check" in built[name]]
        if len(checks) > 1:
            # By NumPy, whose largest of numbers is NaN where one is.
            self.record(**facts, losses_differ=float(np.ptp(checks) / np.max(checks)))

    def run_all(self, work: Iterable[tuple[Shape, str, str]], seconds: float) -> None:
        """Times every (shape, dtype, mode) while there is time; in a dry run all at one shape."""
        if self.dry:
            work, seconds = dict.fromkeys((TINY, *rest) for _, *rest in work), DRY_SECONDS
        for shape, dtype, mode in work:
            if self.left() > LEAST_SECONDS:
                self.run(Case(*shape, dtype, device=platform(self.dry)), mode, seconds)
            else:
                self.record(skipped=f"{shape} {dtype} {mode}")

    def _build(self, case: Case, mode: str) -> dict[str, Any]:
        """Has all build at the same time, where that is not timed."""
        workers = {n: each for n, each in self.workers.items() if self.strikes[n] < STRIKES}
        for worker in workers.values():
            if not worker.process.is_alive():
                worker.start()
        for worker in workers.values():
            worker.tell(self.deadline, "build", case, mode)
        until = time.monotonic() + min(self.build_seconds, self.left())
        return {name: worker.answer(until) for name, worker in workers.items()}

    def _time(self, names: list[str], seconds: float) -> dict[str, list[Any]]:
        """Takes samples in rounds; one that is cut or fails ends with what it said."""
        estimates, samples = {}, {name: [] for name in names}
        for name in names:
            estimates[name] = self._ask(name, "warm")
            if isinstance(estimates[name], dict):
                samples[name].append(estimates[name])
        order, shuffle = list(names), random.Random(0).shuffle
        end = time.monotonic() + min(seconds, self.left())
        # The least number of rounds, as long as the stage lasts; after that, to the end.
        while rounds_left(samples) or time.monotonic() < end:
            if self.left() < 0:
                break
            shuffle(order)
            for name in order:
                if not (samples[name] and isinstance(samples[name][-1], dict)):
                    samples[name].append(self._ask(name, "sample", estimates[name]))
        return samples

    def _ask(self, name: str, *order: Any) -> Any:
        self.workers[name].tell(self.deadline, *order)
        return self.workers[name].answer(time.monotonic() + min(CUT, self.left()))


def rounds_left(samples: dict[str, list[Any]]) -> bool:
    """Returns whether one that still runs has fewer samples than count."""
    running = [each for each in samples.values() if not (each and isinstance(each[-1], dict))]
    return any(len(each) < LEAST_ROUNDS for each in running)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
