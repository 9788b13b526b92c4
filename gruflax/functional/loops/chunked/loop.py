"""The chunked loop: products over chunks of time, and one derivative rule for every mode.

In the forward pass one product projects a chunk's inputs, and an inner loop multiplies by the
recurrent kernel once per step. The derivative rule (`tangent`) computes the tangent chunk by chunk
from the states alone. JAX transposes it into a backward pass whose weight gradients are products
over chunks, and which keeps only the states of each step.

Known limits: with activations that mix units the derivative rule does not apply, and JAX computes
and differentiates each chunk once more in the backward pass; the number of steps must be known.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from gruflax.functional.call import Call
from gruflax.functional.checks import PyTree
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops import thresholds
from gruflax.functional.loops.chunked import products
from gruflax.functional.loops.chunked.tangent import Tangents, tangent_states
from gruflax.functional.masks import where_steps
from gruflax.functional.params import split_bias, split_gates
from gruflax.functional.step import project, step
from gruflax.functional.time import hold, over_chunks, start_anew


# `(params, reset_state, state, steps) -> (state, states of the chunk or None)`.
Chunk = Callable[..., tuple[jax.Array, jax.Array | None]]


def chunked_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call: `(outputs [..., t, u] or None, the last state [..., u])`.

    Activations must be pointwise.
    """
    states, h = _forward(_prepared(call))
    return None if states is None else call.outputs(states), h


def checkpointed_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call whose activations may mix units; JAX differentiates each chunk."""
    # The function alone, without its derivative rule.
    states, h = _forward.fun(_prepared(call), jax.checkpoint, by_chunk=False)
    return None if states is None else call.outputs(states), h


def chunked_tangent(
    call: Call, states: jax.Array, tangents: Mapping[str, PyTree]
) -> tuple[jax.Array, jax.Array]:
    """Computes the tangent of the chunked loop from its states `[t, ..., u]`, in order.

    `tangents` are the fields of `Tangents` that are not zero. The result is linear in them.
    """
    zeros = {name: jnp.zeros_like(getattr(call, name)) for name in ("initial_state", "reset_state")}
    given = Tangents(**{**zeros, **tangents})
    if given.inputs is not None and call.steps.valid is not None:
        given = given._replace(inputs=where_steps(call.steps.valid, given.inputs, 0))
    return tangent_states(_prepared(call), states, given)


def _prepared(call: Call) -> Call:
    """Clears masked inputs, and chooses the number of steps per chunk."""
    rows, features, units = thresholds.rows_of(call), call.steps.inputs.shape[-1], _units(call)
    chunk = call.chunk
    if chunk is None:
        chunk = thresholds.chunk_length(
            call.time, rows, features, units, call.steps.inputs.dtype.itemsize
        )
    return dataclasses.replace(call.cleared(), chunk=min(chunk, call.time))


def _units(call: Call) -> int:
    return call.initial_state.shape[-1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _forward(
    call: Call, wrap: Callable[[Chunk], Chunk] = lambda chunk: chunk, by_chunk: bool = True
) -> tuple[jax.Array | None, jax.Array]:
    """Computes `(states [t, ..., u] or None, last state)`, with the derivative rule of `tangent`.

    `wrap` changes the function of a chunk.
    """
    params, dot = call.params, jnp.dot
    forward, _ = thresholds.choose_products(thresholds.rows_of(call), _units(call))
    if forward and call.config.reset_after and call.masks.recurrent is None:
        params = {**params, "recurrent_kernel": params["recurrent_kernel"].T}
        dot = products.on_cpus(products.kernel_first_dot, products.transposed_dot)
    read, x = products.chunk_reader(call, by_chunk)
    masks = None if call.masks.inputs is None else call.masks.inputs[:, None]
    one_step = functools.partial(
        step, config=call.config, masks=call.masks.recurrent, precision=call.precision, dot=dot
    )

    @wrap
    def chunk(params, fresh, h, now):
        b, _ = split_bias(params, call.config)
        x = project(read(now.inputs), params["kernel"], b, masks, call.precision)

        def body(h, now):
            x, now = now
            h = start_anew(h, now.reset, fresh)
            h = hold(one_step(params, x, h)[0], h, now)
            return h, h if call.return_sequences else None

        # There is one array per gate because XLA on CPUs does not vectorise slices of a packed one.
        steps = split_gates(x), now._replace(inputs=None)
        return lax.scan(body, h, steps, unroll=call.inner_unroll)

    steps = call.ordered().steps._replace(inputs=x)
    body = functools.partial(chunk, params, call.reset_state)
    h, states = over_chunks(body, call.initial_state, steps, call.chunk or 1)
    return states, h


@functools.partial(_forward.defjvp, symbolic_zeros=True)
def _forward_jvp(wrap, by_chunk, primals, tangents):
    del wrap, by_chunk
    (call,), (dcall,) = primals, tangents
    states, h = _forward(dataclasses.replace(call, return_sequences=True))
    # Without a tangent of inputs, parameters or masks, products with zeros are left out.
    dmoving = Tangents(
        initial_state=_made_zeros(dcall.initial_state, call.initial_state),
        reset_state=_made_zeros(dcall.reset_state, call.reset_state),
        params=_known(dcall.params, call.params),
        inputs=_known(dcall.steps.inputs, call.steps.inputs),
        masks=DropoutMasks(*map(_known, dcall.masks, call.masks)),
    )
    assert states is not None
    dstates, dh = tangent_states(call, states, dmoving)
    if not call.return_sequences:
        states = dstates = None
    return (states, h), (dstates, dh)


def _known(tangent: PyTree, primal: PyTree) -> PyTree:
    """Returns a tangent, or None if all of it is known to be zero."""
    leaves = jax.tree.leaves(tangent, is_leaf=_is_symbol)
    return None if all(map(_is_symbol, leaves)) else _made_zeros(tangent, primal)


def _made_zeros(tangent: PyTree, primal: PyTree) -> PyTree:
    """Replaces JAX's symbols for zero tangents by arrays of zeros."""
    return jax.tree.map(
        lambda leaf, like: jnp.zeros_like(like) if _is_symbol(leaf) else leaf,
        tangent,
        primal,
        is_leaf=_is_symbol,
    )


def _is_symbol(leaf: object) -> bool:
    return isinstance(leaf, SymbolicZero)
