"""The chunked loop: products over chunks of time, and one derivative rule for every mode.

Forward, one product projects a chunk's inputs, and an inner loop multiplies by the recurrent kernel
once a step. The rule computes the tangent chunk by chunk: from the states it makes all gates of a
chunk by one product and linearises them; tangents of inputs and weights enter by products over the
chunk; what is left is an inner loop that is linear in the state's tangent. JAX transposes that into
a backward pass with weight gradients as products over chunks, which keeps the states and nothing
else of each step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops import where_steps
from gruflax.functional.params import GATES
from gruflax.functional.step import (
    advance,
    blend,
    gates_after,
    project,
    split_bias,
    split_gates,
    split_masks,
    split_recurrent_kernel,
    update_and_reset,
)


class Static(NamedTuple):
    """What a chunked loop is compiled for: hashable.

    Attributes:
        config: the GRU.
        precision: of the products.
        keep_states: whether to return the state after every step.
        chunk: steps a chunk.
    """

    config: GRUConfig
    precision: Any
    keep_states: bool
    chunk: int


class Inputs(NamedTuple):
    """What a chunked loop computes from: a pytree of arrays.

    Attributes:
        params: of the GRU.
        initial_state: `[..., u]`.
        reset_state: `[..., u]`, what a reset goes back to.
        x: `[t, ..., f]`.
    """

    params: Any
    initial_state: jax.Array
    reset_state: jax.Array
    x: jax.Array


class Fixed(NamedTuple):
    """What is never differentiated.

    Attributes:
        valid: `[t, ...]` boolean, or None.
        reset: `[t, ...]` boolean, or None.
        masks: dropout masks.
    """

    valid: jax.Array | None
    reset: jax.Array | None
    masks: DropoutMasks


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def chunked_loop(
    static: Static, inputs: Inputs, fixed: Fixed
) -> tuple[jax.Array, jax.Array | None]:
    """Runs a GRU over a sequence, chunk by chunk.

    Args:
        static: what it is compiled for.
        inputs: parameters, states and `x` `[t, ..., f]`, in the compute dtype.
        fixed: masks.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.
    """
    params, initial_state, reset_state, x = inputs
    config, masks = static.config, fixed.masks
    bias, _ = split_bias(params, config)

    def step(state, now):
        x_projection, valid, reset = now
        state = state if reset is None else where_steps(reset, reset_state, state)
        new = advance(params, x_projection, state, config, masks.recurrent, static.precision)
        new = new if valid is None else where_steps(valid, new, state)
        return new, new if static.keep_states else None

    def chunk(state, now):
        x, valid, reset = now
        mask = _each_step(masks.inputs)
        x_projection = project(x, params["kernel"], bias, mask, static.precision)
        # One array a gate: XLA's CPU code for a slice of a packed one is not vectorised.
        return lax.scan(step, state, (split_gates(x_projection), valid, reset))

    return over_chunks(chunk, initial_state, (x, fixed.valid, fixed.reset), static.chunk)


def _chunked_loop_jvp(static, primals, tangents):
    inputs, fixed = primals
    state, states = chunked_loop(static._replace(keep_states=True), inputs, fixed)
    before = jnp.concatenate([inputs.initial_state[None], states[:-1]])
    if fixed.reset is not None:
        before = where_steps(fixed.reset, inputs.reset_state[None], before)
    # Inputs seldom have a tangent: without one, products with zeros are left out.
    dx = None if isinstance(tangents[0].x, SymbolicZero) else tangents[0].x
    tangent = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf,
        tangents[0]._replace(x=None),
        is_leaf=lambda leaf: isinstance(leaf, SymbolicZero),
    )
    dstate, dstates = _tangent_loop(static, inputs, fixed, before, tangent, dx)
    if not static.keep_states:
        return (state, None), (dstate, None)
    return (state, states), (dstate, dstates)


chunked_loop.defjvp(_chunked_loop_jvp, symbolic_zeros=True)


def _tangent_loop(
    static: Static,
    inputs: Inputs,
    fixed: Fixed,
    before: jax.Array,
    tangent: Inputs,
    dx: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Runs the tangent of the loop: linear in `tangent` and `dx`."""
    linearize = _linear_after if static.config.reset_after else _linear_before

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def chunk(params, dparams, dreset_state, dstate, now):
        x, dx, before, valid, reset = now
        bias, _ = split_bias(params, static.config)
        dbias, _ = split_bias(dparams, static.config)
        mask = _each_step(fixed.masks.inputs)
        product = functools.partial(project, masks=mask, precision=static.precision)
        x_projection = product(x, params["kernel"], bias)
        dx_projection = product(x, dparams["kernel"], dbias)
        if dx is not None:
            dx_projection += product(dx, params["kernel"])
        linear_step, terms = linearize(
            static,
            fixed.masks.recurrent,
            (params, dparams),
            (split_gates(x_projection), split_gates(dx_projection)),
            before,
            valid,
        )

        def step(dstate, now):
            terms, reset = now
            if reset is not None:
                dstate = where_steps(reset, dreset_state, dstate)
            dstate = linear_step(dstate, terms)
            return dstate, dstate

        return lax.scan(step, dstate, (terms, reset))

    def outer(dstate, now):
        return chunk(inputs.params, tangent.params, tangent.reset_state, dstate, now)

    steps = (inputs.x, dx, before, fixed.valid, fixed.reset)
    return over_chunks(outer, tangent.initial_state, steps, static.chunk)


def _linear_after(static, masks, params, x_projection, before, valid):
    """Linearises the steps of a chunk where the reset gate acts after the recurrent product.

    Returns:
        `(step, terms)`: `step(dstate, terms of one step) -> dstate`, and the terms of all steps.
    """
    (params, dparams), config = params, static.config
    kernel, (_, bias) = params["recurrent_kernel"], split_bias(params, config)
    _, dbias = split_bias(dparams, config)
    product = functools.partial(project, precision=static.precision)
    projection = split_gates(product(before, kernel, bias, _each_step(masks)))
    dprojection = split_gates(
        product(before, dparams["recurrent_kernel"], dbias, _each_step(masks))
    )

    def new_state(x_projection, projection, before, valid):
        return _held(valid, gates_after(x_projection, projection, before, config), before)

    _, constant = jax.jvp(
        lambda x, h: new_state(x, h, before, valid),
        (x_projection[0], projection),
        (x_projection[1], dprojection),
    )

    def linear(x_projection, projection, before, valid):
        gates = functools.partial(new_state, x_projection, valid=valid)
        return jax.linearize(gates, projection, before)[1]

    linear = jax.vmap(linear)(x_projection[0], projection, before, valid)

    def step(dstate, terms):
        constant, linear = terms
        return constant + linear(split_gates(product(dstate, kernel, masks=masks)), dstate)

    return step, (constant, linear)


def _linear_before(static, masks, params, x_projection, before, valid):
    """Linearises the steps of a chunk where the reset gate acts before the recurrent product.

    Returns:
        `(step, terms)`, as `_linear_after`.
    """
    (params, dparams), config = params, static.config
    gate_kernel, candidate_kernel = split_recurrent_kernel(params)
    dgate_kernel, dcandidate_kernel = split_recurrent_kernel(dparams)
    gate_masks, candidate_mask = split_masks(masks)
    product = functools.partial(project, precision=static.precision)

    def gates(x_projection, projection, before):
        update, reset = update_and_reset(x_projection, projection, config)
        return update, reset * before

    def new_state(x_candidate, update, recurrent, before, valid):
        return _held(valid, blend(update, x_candidate + recurrent, before, config), before)

    each = _each_step(gate_masks)
    projection = split_gates(product(before, gate_kernel, masks=each), 2)
    dprojection = split_gates(product(before, dgate_kernel, masks=each), 2)
    (update, kept), (dupdate, dkept) = jax.jvp(
        lambda x, h: gates(x, h, before),
        (x_projection[0], projection),
        (x_projection[1], dprojection),
    )
    each = _each_step(candidate_mask)
    recurrent = product(kept, candidate_kernel, masks=each)
    drecurrent = product(kept, dcandidate_kernel, masks=each)
    _, constant = jax.jvp(
        lambda x, h: new_state(x, update, h, before, valid),
        (x_projection[0][2], recurrent),
        (x_projection[1][2], drecurrent),
    )

    def linear_gates(x_projection, projection, before):
        return jax.linearize(functools.partial(gates, x_projection), projection, before)[1]

    def linear_state(x_candidate, update, recurrent, before, valid):
        state = functools.partial(new_state, x_candidate, valid=valid)
        return jax.linearize(state, update, recurrent, before)[1]

    linear = (
        jax.vmap(linear_gates)(x_projection[0], projection, before),
        jax.vmap(linear_state)(x_projection[0][2], update, recurrent, before, valid),
    )

    def step(dstate, terms):
        (dupdate, dkept, constant), (linear_gates, linear_state) = terms
        dprojection = split_gates(product(dstate, gate_kernel, masks=gate_masks), 2)
        own_update, own_kept = linear_gates(dprojection, dstate)
        drecurrent = product(dkept + own_kept, candidate_kernel, masks=candidate_mask)
        return constant + linear_state(dupdate + own_update, drecurrent, dstate)

    return step, ((dupdate, dkept, constant), linear)


def _held(valid: jax.Array | None, new: jax.Array, state: jax.Array) -> jax.Array:
    return new if valid is None else where_steps(valid, new, state)


def _each_step(masks: jax.Array | None) -> jax.Array | None:
    """Gives dropout masks `[n, ..., f]` an axis for the steps of a chunk."""
    return None if masks is None else masks[:, None]


def over_chunks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, steps: Any, chunk: int
) -> tuple[Any, Any]:
    """Scans over chunks of time; the last one may be shorter.

    Args:
        body: `(carry, steps of a chunk) -> (carry, results of each step)`.
        carry: what goes from chunk to chunk.
        steps: a pytree of `[t, ...]`.
        chunk: steps a chunk.

    Returns:
        `(carry, results)`, the results a pytree of `[t, ...]`.
    """
    time = jax.tree.leaves(steps)[0].shape[0]
    whole = time - time % chunk
    if not whole:
        return body(carry, steps)
    first = jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), steps)
    carry, results = lax.scan(body, carry, first)
    results = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)
    if whole == time:
        return carry, results
    carry, rest = body(carry, jax.tree.map(lambda a: a[whole:], steps))
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)


# A chunk's projected inputs should stay in a core's cache.
_BLOCK_BYTES = 2**21
_CHUNKS = (8, 64)


def chunk_length(time: int, batch: int, features: int, units: int, itemsize: int) -> int:
    """Chooses the steps of a chunk by their cost.

    A chunk should be as long as its projected inputs fit the cache, and long enough that adding up
    the weights' gradients, once a chunk, costs less than the products.

    Args:
        time: number of steps.
        batch: number of sequences.
        features: size of an input step.
        units: size of the state.
        itemsize: bytes a number.

    Returns:
        The steps a chunk, at least 1 and at most `time`. A divisor of `time` where one is near.
    """
    shortest, longest = _CHUNKS
    cached = _BLOCK_BYTES // max(1, GATES * batch * units * itemsize)
    amortised = -(-(features + units) // max(1, batch))
    wanted = min(max(shortest, min(longest, cached), amortised), max(1, time))
    divisors = [size for size in range(wanted // 2 + 1, 2 * wanted) if time and time % size == 0]
    return min(divisors, key=lambda size: abs(size - wanted), default=wanted)
