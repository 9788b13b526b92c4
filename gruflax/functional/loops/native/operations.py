"""The three operations of the native loop: the states, their tangent, and the gradients.

The kernel computes the states, and from them the gradients. JAX gets from one to the other by the
tangent: its transpose is the operation of the gradients. The tangent itself is computed by the
chunked loop, and so are forward mode and derivatives of derivatives.

Under differentiation the states come with the gates of every step, if these are not too large
(`thresholds.keeps_gates`), so that the backward pass need not compute them again. If they turn out
not to be kept, because the program runs on another platform or `jax.vmap` has made the call too
large, the array of the gates is filled with a special number. The kernel computes every gate again
that has this number.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from gruflax.functional.call import Call
from gruflax.functional.checks import at_least_float32
from gruflax.functional.loops.chunked.loop import chunked_loop, chunked_tangent
from gruflax.functional.loops.native.ffi import run_kernel
from gruflax.functional.loops.native.form import Arrays, Form, Leaves
from gruflax.functional.loops.native.library import BACKWARD, FORWARD
from gruflax.functional.loops.native.primitives import (
    Operation,
    Tangents,
    differentiate_portable,
)
from gruflax.functional.loops.thresholds import (
    KEPT_GATES,
    gradients_run_well,
    keeps_gates,
    runs_well,
)


def _variables(call: Call) -> Arrays:
    """Returns the arrays of a call whose gradients the kernel computes.

    Gradients of dropout masks, which the user may give, are computed by the chunked loop.
    """
    return {
        "params": call.params,
        "inputs": call.steps.inputs,
        "initial_state": call.initial_state,
        "reset_state": call.reset_state,
    }


def states(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Computes `(outputs [..., t, u] or None, the last state [..., u])`."""
    found = _STATES((call, {}), keep=False)
    return found.get("outputs"), found["state"]


def _states_types(call: Call, arrays: Arrays, keep: bool) -> Arrays:
    state, steps, dtype = call.initial_state, call.steps.inputs.shape[:-1], call.steps.inputs.dtype
    units = state.shape[-1]
    found = {"state": jax.ShapeDtypeStruct(state.shape, dtype)}
    if call.return_sequences:
        found["outputs"] = jax.ShapeDtypeStruct((*steps, units), dtype)
    if keep:
        gates = (*steps, KEPT_GATES * units)
        found["gates"] = jax.ShapeDtypeStruct(gates, at_least_float32(dtype))
    return found


def _portable_states(call: Call, arrays: Arrays, keep: bool) -> Arrays:
    types = _states_types(call, arrays, keep)
    outputs, state = chunked_loop(call)
    # The portable gradients have no use for the gates.
    found = {"outputs": outputs, "state": state, "gates": keep and _not_kept(types["gates"])}
    return {name: found[name] for name in types}


def _native_states(form: Form, leaves: Leaves, types: Arrays, local: bool) -> Arrays | None:
    call, _ = form.single(leaves)
    if not runs_well(call):
        return None
    names = dict.fromkeys(types)
    if not keeps_gates(call, form.members(leaves)):
        names.pop("gates", None)
    each = form.named(form.each)
    wanted = {name: types[name] for name in names}
    found = run_kernel(FORWARD, call, form.named(leaves), each, wanted, local)
    return found | {name: _not_kept(types[name]) for name in types if name not in found}


def _not_kept(like: jax.ShapeDtypeStruct) -> jax.Array:
    # The number is that of kernel/backward.h. A gate that has it by chance is computed again.
    return jnp.full(like.shape, jnp.finfo(like.dtype).min, like.dtype)


def _differentiate_states(
    operation: Operation, form: Form, leaves: Leaves, along: Tangents
) -> tuple[list[jax.Array], list[jax.Array]]:
    call, _ = form.arguments(leaves)
    each, _ = form.arguments(form.each)
    dcall, _ = form.arguments(along)
    tangents = _variables(dcall) | {"masks": dcall.masks}
    moving = {
        name: jax.tree.map(ad.instantiate_zeros, tangent, is_leaf=_is_zero)
        for name, tangent in tangents.items()
        if not all(map(_is_zero, jax.tree.leaves(tangent, is_leaf=_is_zero)))
    }
    single, _ = form.single(leaves)
    if "masks" in moving or not gradients_run_well(single):
        return differentiate_portable(operation, form, leaves, along)
    keep = dict(form.options)["keep"] or keeps_gates(single, form.members(leaves))
    complete = dataclasses.replace(call, return_sequences=True)
    found = _STATES((complete, {}), (each, {}), keep=keep)
    kept = {name: found[name] for name in ("outputs", "gates") if name in found}
    flags = dict.fromkeys(kept, any(form.each))
    linear = {name: _variables(each)[name] for name in moving}
    dfound = _TANGENT((call, {**kept, "linear": moving}), (each, {**flags, "linear": linear}))
    names = operation.result_names(form, leaves)
    # The gates follow from the states, through which all of the derivative goes.
    dfound["gates"] = jnp.zeros_like(found["gates"]) if "gates" in names else None
    return [found[name] for name in names], [dfound[name] for name in names]


def _is_zero(tangent: object) -> bool:
    return isinstance(tangent, ad.Zero)


def _tangent_types(call: Call, arrays: Arrays) -> Arrays:
    return {"outputs": arrays["outputs"], "state": call.initial_state}


def _portable_tangent(call: Call, arrays: Arrays) -> Arrays:
    outputs = arrays["outputs"]
    if call.zero_output_for_mask:
        # At masked steps the outputs are zeros, so the states are computed again.
        complete = dataclasses.replace(call, return_sequences=True, zero_output_for_mask=False)
        outputs, _ = chunked_loop(complete)
        assert outputs is not None
    states = jnp.moveaxis(outputs, call.time_axis, 0)
    dstates, dstate = chunked_tangent(call, states, arrays["linear"])
    return {"outputs": call.outputs(dstates), "state": dstate}


def _transpose_tangent(form: Form, leaves: Leaves, cotangents: Tangents) -> list[jax.Array | None]:
    call, arrays = form.arguments(leaves)
    each, flags = form.arguments(form.each)
    places = form.arguments(range(len(leaves)))[1]["linear"]
    # For each leaf whose cotangent is asked for, JAX gives a placeholder instead of an array.
    linear = [ad.is_undefined_primal(leaf) for leaf in leaves]
    wanted = tuple(
        name for name in places if any(linear[place] for place in jax.tree.leaves(places[name]))
    )
    given = zip(("doutputs", "dstate"), cotangents, strict=True)
    given = {name: each for name, each in given if not _is_zero(each)}
    flags = {**flags, "linear": dict.fromkeys(given, any(form.each))}
    gradients = _GRADIENTS((call, {**arrays, "linear": given}), (each, flags), wanted=wanted)
    found: list[jax.Array | None] = [None] * len(leaves)
    for name in wanted:
        pairs = zip(jax.tree.leaves(places[name]), jax.tree.leaves(gradients[name]), strict=True)
        for place, gradient in pairs:
            if linear[place]:
                # The gradient of an array that all members share is the sum of theirs.
                shared = any(form.each) and not form.each[place]
                found[place] = gradient.sum(axis=0) if shared else gradient
    return found


def _gradients_types(call: Call, arrays: Arrays, wanted: tuple[str, ...]) -> Arrays:
    return {name: _variables(call)[name] for name in wanted}


def _portable_gradients(call: Call, arrays: Arrays, wanted: tuple[str, ...]) -> Arrays:
    """Transposes the chunked loop's tangent."""
    outputs, given = arrays["outputs"], arrays["linear"]
    found = {"outputs": given.get("doutputs"), "state": given.get("dstate")}
    types = _tangent_types(call, arrays)
    cotangents = {
        name: jnp.zeros_like(types[name]) if each is None else each for name, each in found.items()
    }

    def tangent(linear):
        return _portable_tangent(call, {"outputs": outputs, "linear": linear})

    parts = {name: _variables(call)[name] for name in wanted}
    return jax.linear_transpose(tangent, parts)(cotangents)[0]


def _native_gradients(form: Form, leaves: Leaves, types: Arrays, local: bool) -> Arrays | None:
    call, _ = form.single(leaves)
    if not gradients_run_well(call):
        return None
    operands = form.named(leaves)
    if not keeps_gates(call, form.members(leaves)):
        operands.pop("gates", None)
    return run_kernel(BACKWARD, call, operands, form.named(form.each), types, local)


_STATES = Operation(
    "states", _states_types, _portable_states, _native_states, _differentiate_states
)
_TANGENT = Operation("tangent", _tangent_types, _portable_tangent, transpose=_transpose_tangent)
_GRADIENTS = Operation("gradients", _gradients_types, _portable_gradients, _native_gradients)
