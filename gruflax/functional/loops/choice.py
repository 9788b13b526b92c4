"""Choosing the loop that runs a call, and explaining why it is not a faster one."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from gruflax.functional.activations import is_pointwise
from gruflax.functional.call import CALL_OPTIONS, Call, make_call
from gruflax.functional.checks import PyTree, check_flags
from gruflax.functional.loops import thresholds
from gruflax.functional.loops.chunked.loop import checkpointed_loop, chunked_loop
from gruflax.functional.loops.native.conditions import check_native, unmet_conditions
from gruflax.functional.loops.native.loop import native_loop
from gruflax.functional.loops.scan import scan_loop, unrolled_loop
from gruflax.functional.params import Params
from gruflax.functional.time import even_length, over_chunks


LOOPS = ("auto", "scan", "chunked", "native", "cudnn")

# `Call -> (outputs [..., t, u] in the caller's layout, or None; the last state [..., u])`.
Loop = Callable[[Call], tuple[jax.Array | None, jax.Array]]


class LoopChoice(NamedTuple):
    """Which loops run a call: the result of `gruflax.explain_loop`.

    Attributes:
        forward: the loop of the forward pass: "native", "chunked", "scan", "unrolled" or "cudnn".
        gradient: the loop of the backward pass, and of the forward pass that belongs to it. JAX
            differentiates "scan" and "unrolled".
        reasons: a sentence for each reason why no faster loop is chosen; empty if the fastest is.
    """

    forward: str
    gradient: str
    reasons: tuple[str, ...]


def explain_loop(
    params: Params,
    inputs: ArrayLike,
    *,
    loop: str = "auto",
    unroll: bool = False,
    platform: str = "cpu",
    **options: Any,
) -> LoopChoice:
    """Tells which loop would run a call of `gruflax.gru_sequence`, and why not a faster one.

    Nothing is computed. The choice depends on the sizes. For a call that `jax.vmap` maps over the
    inputs alone, give inputs with the mapped axis as one more batch axis; for one that it maps over
    the parameters, give the arrays of one member. Even with the native loop, the chunked loop
    computes forward mode, derivatives of derivatives, derivatives by `dropout_masks`, and a
    pullback that `jax.vmap` maps over cotangents alone, as `jax.jacrev` does.

    Args:
        params: parameters of the GRU, each an array or a `jax.ShapeDtypeStruct`.
        inputs: `[..., t, f]`, an array or a `jax.ShapeDtypeStruct`.
        loop: the loop to ask for: "auto", the default, "scan", "chunked", "native" or "cudnn".
        unroll: True asks for a Python loop; False by default.
        platform: where the call would run: "cpu", the default, "gpu" or "tpu".
        **options: options of `gruflax.gru_sequence`, which explains them in full:

            * config: the options of the GRU; by default `GRUConfig()`.
            * initial_state: `[..., u]`; None by default.
            * mask: `[..., t]` or `[..., t, 1]`; None by default.
            * seq_lengths: `[...]` integers; None by default.
            * reset: like `mask`; None by default.
            * reset_state: `[..., u]`, only with `reset`; None by default.
            * rng: JAX random key; None by default.
            * dropout_masks: `DropoutMasks`; None by default.
            * go_backwards: True processes the last step first; False by default.
            * time_major: True has time as the first axis; False by default.
            * return_sequences: False returns the last output only; True by default.
            * zero_output_for_mask: True makes outputs zeros at masked steps; False by default.
            * chunk: steps per chunk; None by default.
            * remat: True keeps only every sqrt(t)-th state; False by default.
            * dtype: dtype to compute in; None by default.
            * precision: precision of the matrix products; None by default.

    Returns:
        `LoopChoice`.

    Raises:
        TypeError: as `gruflax.gru_sequence`.
        ValueError: as `gruflax.gru_sequence`.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"platform must be one of {PLATFORMS}, got {platform!r}.")
    unknown = sorted(set(options) - {*CALL_OPTIONS, *_STATIC})
    if unknown:
        raise TypeError(f"explain_loop has no arguments {unknown}, only those of gru_sequence.")
    arguments = {"params": params, "inputs": inputs, "loop": loop, **options}
    types = {name: each for name, each in arguments.items() if _has_types(each)}
    found = []

    def trace(types):
        call = make_call(**(arguments | types))
        found.append(_explained(call, unroll, platform))

    jax.eval_shape(trace, types)
    return found[0]


PLATFORMS = ("cpu", "gpu", "tpu")
_STATIC = ("return_sequences", "zero_output_for_mask", "chunk", "remat")


def _has_types(argument: PyTree) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(argument))


def _explained(call: Call, unroll: bool, platform: str) -> LoopChoice:
    name = _name(call, unroll)
    if name != "native":
        return LoopChoice(name, name, tuple(_why_not(call, name, unroll)))
    if platform != "cpu":
        reason = f"The native loop is for CPUs; on a {platform} it is the chunked loop."
        return LoopChoice("chunked", "chunked", (reason,))
    forward, gradient = (
        "native" if well else "chunked"
        for well in (thresholds.runs_well(call), thresholds.gradients_run_well(call))
    )
    reasons = tuple(
        f"Not native {way}: the weights are too large for so few rows."
        for way, loop in (("forward", forward), ("backward", gradient))
        if loop != "native"
    )
    return LoopChoice(forward, gradient, reasons)


def _why_not(call: Call, name: str, unroll: bool) -> list[str]:
    """Lists the reasons why a call that does not run natively has no faster loop."""
    if call.loop != "auto":
        return [f"Not native: loop is {call.loop!r}."]
    unmet = unmet_conditions(call, unroll=unroll) or ["there is at most one step"]
    if name == "scan":
        known = isinstance(call.time, int)
        more = "the activations must be pointwise" if known else "the number of steps must be known"
        return [*(f"Not native: {clause}." for clause in unmet), f"Not chunked: {more}."]
    return [f"Not native: {clause}." for clause in unmet]


def choose_loop(call: Call, *, unroll: bool = False) -> Loop:
    """Returns the function that runs a call."""
    chosen = _loop(_name(call, unroll), call)
    if call.remat and isinstance(call.time, int) and call.time > 1:
        return functools.partial(_in_segments, chosen)
    return chosen


def _name(call: Call, unroll: bool) -> str:
    """Names the loop that runs a call, if the platform has it."""
    check_flags(unroll=unroll)
    if call.loop not in LOOPS:
        raise ValueError(f"loop must be one of {LOOPS}, got {call.loop!r}.")
    if call.loop == "native":
        check_native(call, unroll=unroll)
    if call.loop == "cudnn":
        # It is experimental and large, and imported only when it is asked for.
        from gruflax.functional.loops.cudnn.loop import check_cudnn

        check_cudnn(call, unroll=unroll)
    if unroll or call.time in (0, 1):
        return "unrolled"
    if call.loop == "cudnn":
        # cuDNN refuses arrays without numbers.
        return "scan" if 0 in (*call.steps.inputs.shape, *call.initial_state.shape) else "cudnn"
    if call.loop == "native" or (call.loop == "auto" and not unmet_conditions(call)):
        return "native"
    # In jax.export sizes may be symbols, which only the scan can handle. With activations that mix
    # units the chunked loop saves memory, but no time.
    if call.loop == "chunked" or (call.loop == "auto" and _is_pointwise(call)):
        return "chunked" if isinstance(call.time, int) else "scan"
    return "scan"


def _is_pointwise(call: Call) -> bool:
    return is_pointwise(call.config.activation, call.config.recurrent_activation)


def _loop(name: str, call: Call) -> Loop:
    if name == "cudnn":
        from gruflax.functional.loops.cudnn.loop import cudnn_loop

        return cudnn_loop
    if name == "chunked" and not _is_pointwise(call):
        return checkpointed_loop
    loops = {"unrolled": unrolled_loop, "native": native_loop, "chunked": chunked_loop}
    return loops.get(name, scan_loop)


def _in_segments(run: Loop, call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call in sqrt(t) segments of time; the backward pass keeps the states between them."""
    first = call.ordered()

    def segment(state, steps):
        states, state = run(dataclasses.replace(first, initial_state=state, steps=steps))
        return state, states

    length = even_length(call.time, math.isqrt(call.time - 1) + 1)
    state, states = over_chunks(jax.checkpoint(segment), call.initial_state, first.steps, length)
    return None if states is None else call.in_layout(states), state
