"""Lists the cases of a run, their modes and their contestants."""

import argparse
import dataclasses
from typing import NamedTuple

from gruflax.bench.case import NARROW, VALUE_AND_GRAD, Case, Shape
from gruflax.bench.contestants import FLOAT32, LOOP_PEERS, NO_DROPOUT, Peer
from gruflax.bench.libraries import LIBRARIES, LINEN


FULL_SHAPES: tuple[Shape, ...] = (
    (32, 100, 64, 128),
    (64, 200, 128, 256),
    (8, 1000, 32, 64),
    (256, 100, 64, 64),
    (1, 1000, 16, 32),
    (16, 50, 512, 1024),
)
GPU_SHAPES: tuple[Shape, ...] = (
    (64, 256, 128, 256),
    (16, 1024, 512, 512),
    (256, 128, 128, 128),
    (1, 4096, 64, 128),
    (128, 512, 1024, 1024),
    (2048, 64, 64, 256),
)
QUICK_SHAPES: tuple[Shape, ...] = ((1, 100, 16, 32), (16, 50, 32, 64))
MEMORY_SHAPE: Shape = (8, 4096, 64, 128)

# Cases with transformations or dropout, in float32 unless the command has `--dtypes`.
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

MASK_CHOICES = {"off": (False,), "on": (True,), "both": (False, True)}
QUICK_PEERS = (LINEN, "flax.nnx")


class Task(NamedTuple):
    """A case to measure in a mode with some contestants; with 0 seconds it is only compiled."""

    case: Case
    mode: str
    peers: tuple[Peer, ...]
    seconds: float


def plan(options: argparse.Namespace, device: str) -> list[Task]:
    """Lists what to measure, for the options of the command and a platform."""
    names = options.peers or (QUICK_PEERS if options.quick else LIBRARIES)
    peers = (*LOOP_PEERS, *(LIBRARIES[name] for name in dict.fromkeys(names)))
    seconds = options.seconds or (1.0 if options.quick else 10.0)
    tasks = [
        Task(case, mode, (*peers, *_baselines(case)), seconds)
        for case in _cases(options, device)
        for mode in dict.fromkeys(options.modes)
        # Gradients of examples and dropout matter in training only.
        if mode == VALUE_AND_GRAD or not (case.per_example or case.dropout)
    ]
    part = options.shapes or options.variants or options.quick
    if not part and VALUE_AND_GRAD in options.modes:
        # This large case is compiled for its memory, and not timed.
        large = Case(*MEMORY_SHAPE, device=device)
        tasks.append(Task(large, VALUE_AND_GRAD, (*LOOP_PEERS, LIBRARIES[LINEN]), 0.0))
    return tasks


def _baselines(case: Case) -> list[Peer]:
    """Lists the contestants that run a case without its dropout or without its narrow dtype."""
    special = {NO_DROPOUT: case.dropout, FLOAT32: case.dtype in NARROW}
    return [peer for peer, given in special.items() if given]


def _cases(options: argparse.Namespace, device: str) -> list[Case]:
    """Lists the plain cases and the variants of a run, without repeats."""
    dtypes = dict.fromkeys(options.dtypes)
    masks = MASK_CHOICES[options.masks or ("off" if options.quick else "both")]
    full = GPU_SHAPES if device == "gpu" else FULL_SHAPES
    shapes: tuple[Shape, ...] = options.shapes or (QUICK_SHAPES if options.quick else full)
    cases = [Case(*s, d, masked) for d in dtypes for masked in masks for s in shapes]
    if options.variants:
        cases = []
    if not options.shapes:
        variants = (QUICK_VARIANT,) if options.quick else VARIANTS
        chosen = [dataclasses.replace(case, dtype=dtype) for dtype in dtypes for case in variants]
        chosen += [] if options.quick else [NARROW_VARIANT]
        cases += [dataclasses.replace(case, masked=masks[0]) for case in chosen]
    return [dataclasses.replace(case, device=device) for case in dict.fromkeys(cases)]
