"""Which cases a run measures, in which modes and with which contestants."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from gruflax.bench.case import (
    FULL_SHAPES,
    GPU_SHAPES,
    MEMORY_SHAPE,
    NARROW,
    NARROW_VARIANT,
    QUICK_SHAPES,
    QUICK_VARIANT,
    SCALING,
    STEP,
    STEP_SHAPES,
    VALUE_AND_GRAD,
    VARIANTS,
    Case,
    Shape,
)
from gruflax.bench.contestants import (
    FLOAT32,
    LOOP_PEERS,
    NO_DROPOUT,
    PRODUCT_PEER,
    Peer,
    chunk_peer,
)
from gruflax.bench.libraries import LIBRARIES
from gruflax.bench.report import LINEN
from gruflax.bench.steps import STEP_PEERS


MASKS = {"off": (False,), "on": (True,), "both": (False, True)}
QUICK_PEERS = ("flax.linen", "flax.nnx")


class Task(NamedTuple):
    """One group to measure in a mode; with 0 seconds it is only compiled."""

    case: Case
    mode: str
    peers: tuple[Peer, ...]
    seconds: float


def plan(options: argparse.Namespace, device: str) -> list[Task]:
    """Lists what to measure."""
    seconds = options.seconds or (1.0 if options.quick else 10.0)
    if options.step:
        shapes = STEP_SHAPES[:1] if options.quick else STEP_SHAPES
        return [
            Task(Case(*shape, dtype=dtype, device=device), STEP, STEP_PEERS, seconds)
            for dtype in dict.fromkeys(options.dtypes)
            for shape in shapes
        ]
    names = options.peers or (QUICK_PEERS if options.quick else LIBRARIES)
    loops = (*LOOP_PEERS, *map(chunk_peer, dict.fromkeys(options.chunks)))
    peers = (*loops, *(LIBRARIES[name] for name in dict.fromkeys(names)))
    tasks = [
        Task(case, mode, (*peers, *_yardsticks(case)), seconds)
        for case in _cases(options, device)
        for mode in dict.fromkeys(options.modes)
        # These are about training.
        if mode == VALUE_AND_GRAD or not (case.per_example or case.dropout)
    ]
    part = options.shapes or options.scaling or options.variants or options.quick
    if not part and VALUE_AND_GRAD in options.modes:
        # Memory needs no timing, and this is where it matters.
        compared = (*LOOP_PEERS, LIBRARIES[LINEN])
        large = Case(*MEMORY_SHAPE, device=device)
        tasks.append(Task(large, VALUE_AND_GRAD, compared, 0.0))
    return tasks


def _yardsticks(case: Case) -> list[Peer]:
    """Lists what is timed beside the contestants of a case, to compare with."""
    wanted = {
        NO_DROPOUT: case.dropout,
        FLOAT32: case.dtype in NARROW,
        # Its share is known of plain calls only.
        PRODUCT_PEER: case.plain,
    }
    return [peer for peer, given in wanted.items() if given]


def _cases(options: argparse.Namespace, device: str) -> list[Case]:
    """Lists the plain cases and the variants that are asked for, each once."""
    dtypes = dict.fromkeys(options.dtypes)
    masks = MASKS[options.masks or ("off" if options.quick else "both")]
    shapes = _shapes(options, device)
    cases = [Case(*s, dtype, masked) for dtype in dtypes for masked in masks for s in shapes]
    if not (options.shapes or options.scaling):
        variants = (QUICK_VARIANT,) if options.quick else VARIANTS
        chosen = [dataclasses.replace(case, dtype=dtype) for dtype in dtypes for case in variants]
        if not options.quick:
            chosen.append(NARROW_VARIANT)
        cases += [dataclasses.replace(case, masked=masks[0]) for case in chosen]
    return [dataclasses.replace(case, device=device) for case in dict.fromkeys(cases)]


def _shapes(options: argparse.Namespace, device: str) -> Sequence[Shape]:
    """Returns the shapes of the plain cases."""
    if options.shapes or options.variants:
        return options.shapes or ()
    if options.scaling:
        return SCALING[options.scaling]
    if options.quick:
        return QUICK_SHAPES
    return GPU_SHAPES if device == "gpu" else FULL_SHAPES
