"""The tangent of the native loop: one primitive, whose transpose is the kernel's backward pass.

Applied, differentiated or mapped over parameters it is the chunked loop's tangent.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from gruflax.functional.call import Call
from gruflax.functional.loops.chunked import chunked_loop, chunked_tangent
from gruflax.functional.loops.native import calls
from gruflax.functional.loops.native.batches import (
    WEIGHTS,
    axes_of,
    folded,
    folded_parts,
    unfolded,
)


# {field of `Call`: tangents, or gradients}.
Parts = dict[str, Any]
Cotangent = jax.Array | None


def tangent(call: Call, outputs: jax.Array, dparts: Parts) -> list[jax.Array]:
    """Computes `[doutputs, dstate]` from the outputs of a call; linear in `dparts`."""
    leaves, tree = jax.tree.flatten((call, outputs, dparts))
    return _tangent_p.bind(*leaves, tree=tree)


def _tangent(call: Call, outputs: jax.Array, dparts: Parts) -> list[jax.Array]:
    if call.zero_output_for_mask:
        # At masked steps the outputs are not the states.
        whole = dataclasses.replace(call, return_sequences=True, zero_output_for_mask=False)
        states, _ = chunked_loop(whole)
        assert states is not None
        outputs = states
    dstates, dstate = chunked_tangent(call, jnp.moveaxis(outputs, call.time_axis, 0), dparts)
    return [call.outputs(dstates), dstate]


_tangent_p = Primitive("gru_tangent")
_tangent_p.multiple_results = True


def _of_leaves(*leaves, tree):
    return _tangent(*jax.tree.unflatten(tree, leaves))


def _types(*types, tree):
    call, outputs, _ = jax.tree.unflatten(tree, types)
    return [outputs, call.initial_state]


def _jvp(leaves, tangents, *, tree):
    tangents = [ad.instantiate_zeros(each) for each in tangents]
    return jax.jvp(functools.partial(_of_leaves, tree=tree), tuple(leaves), tuple(tangents))


def _vmap(leaves, axes, *, tree):
    mapped = [axis is not None for axis in axes]
    leaves = [
        jnp.moveaxis(leaf, axis, 0) if each else leaf
        for leaf, axis, each in zip(leaves, axes, mapped, strict=True)
    ]
    size = next(leaf.shape[0] for leaf, each in zip(leaves, mapped, strict=True) if each)
    arguments, mapped = jax.tree.unflatten(tree, leaves), jax.tree.unflatten(tree, mapped)
    (call, outputs, dparts), (by_call, by_outputs, by_dparts) = arguments, mapped
    by_params = jax.tree.leaves((by_call.params, by_dparts.get("params")))
    if any(by_params) or not by_outputs:
        return jax.vmap(_tangent, in_axes=axes_of(mapped))(*arguments), [0, 0]
    weights = {name: dparts.pop(name) for name in list(dparts) if name == "params"}
    steps = folded_parts(call, {"outputs": outputs}, {"outputs": by_outputs}, size)
    dparts = weights | folded_parts(call, dparts, by_dparts, size)
    found = tangent(folded(call, by_call, size), steps["outputs"], dparts)
    return list(unfolded(call, *found)), [0, 0]


def _transpose(cotangents, *leaves, tree):
    call, outputs, _ = jax.tree.unflatten(tree, leaves)
    _, _, places = jax.tree.unflatten(tree, range(len(leaves)))
    # What is linear comes as a placeholder.
    linear = [ad.is_undefined_primal(leaf) for leaf in leaves]
    places = {
        name: jax.tree.leaves(each)
        for name, each in places.items()
        if any(linear[place] for place in jax.tree.leaves(each))
    }
    cotangents = [None if isinstance(each, ad.Zero) else each for each in cotangents]
    gradients = _gradients(tuple(places), call, outputs, *cotangents)
    found: list[Any] = [None] * len(leaves)
    for name, each in places.items():
        for place, gradient in zip(each, jax.tree.leaves(gradients[name]), strict=True):
            found[place] = gradient if linear[place] else None
    return found


@functools.partial(jax.jit, static_argnames="tree")
def _apply(*leaves, tree):
    return _tangent_p.bind(*leaves, tree=tree)


_tangent_p.def_impl(_apply)
_tangent_p.def_abstract_eval(_types)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_of_leaves, multiple_results=True))
ad.primitive_jvps[_tangent_p] = _jvp
ad.primitive_transposes[_tangent_p] = _transpose
batching.primitive_batchers[_tangent_p] = _vmap


def _portable_gradients(
    wanted: tuple[str, ...], call: Call, outputs: jax.Array, doutputs: Cotangent, dstate: Cotangent
) -> Parts:
    """Computes gradients by transposing the chunked loop's tangent."""
    parts = {name: getattr(call, name) for name in wanted}
    cotangents = [
        jnp.zeros_like(like) if each is None else each
        for each, like in ((doutputs, outputs), (dstate, call.initial_state))
    ]
    transposed = jax.linear_transpose(functools.partial(_tangent, call, outputs), parts)
    return transposed(cotangents)[0]


def _native_gradients(
    wanted: tuple[str, ...], call: Call, outputs: jax.Array, doutputs: Cotangent, dstate: Cotangent
) -> Parts:
    names = WEIGHTS if "params" in wanted else ()
    found = calls.backward(call, outputs, doutputs, dstate, (*wanted, *names))
    params = {name: found.pop(name) for name in names if name in found}
    return {**found, "params": params} if params else found


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradients(wanted, call, outputs, doutputs, dstate):
    return _mappable(wanted)(call, outputs, doutputs, dstate)


@_gradients.defjvp
def _gradients_jvp(wanted, primals, tangents):
    found = _gradients(wanted, *primals)
    return found, jax.jvp(functools.partial(_portable_gradients, wanted), primals, tangents)[1]


@functools.cache
def _mappable(wanted: tuple[str, ...]) -> Any:
    """Makes the function of gradients that `jax.vmap` maps."""
    native, portable = (
        functools.partial(each, wanted) for each in (_native_gradients, _portable_gradients)
    )

    @custom_vmap
    def gradients(call, *arrays):
        return lax.platform_dependent(call, *arrays, cpu=native, default=portable)

    @gradients.def_vmap
    def _(size, mapped, call, *arrays):
        by_call, *by_arrays = mapped
        if "params" in wanted or any(jax.tree.leaves(by_call.params)) or not by_arrays[0]:
            found = jax.vmap(portable, in_axes=axes_of(tuple(mapped)))(call, *arrays)
        else:
            names = ("outputs", "doutputs", "dstate")
            parts, by_parts = (dict(zip(names, each, strict=True)) for each in (arrays, by_arrays))
            parts = folded_parts(call, parts, by_parts, size)
            found = gradients(folded(call, by_call, size), *parts.values())
            if "inputs" in found:
                found["inputs"], _ = unfolded(call, found["inputs"], call.initial_state)
        return found, jax.tree.map(lambda _: True, found)

    return gradients
