"""The tangent of the chunked loop, chunk by chunk.

From the states a chunk's gates are computed again by one product, with their partial derivatives.
Tangents of inputs and weights enter by products over the chunk. What is left is an inner loop that
is linear in the state's tangent, with one product and two multiplications a step. Each chunk is
checkpointed: its transpose keeps the states alone.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.chunks import Fixed, Inputs, Static, by_chunk, over_chunks, read_chunk
from gruflax.functional.config import GRUConfig
from gruflax.functional.loops import where_steps
from gruflax.functional.params import Params
from gruflax.functional.products import flat_dot, turned_back_dot
from gruflax.functional.step import (
    Dot,
    blend,
    gates_after,
    project,
    split_bias,
    split_gates,
    split_masks,
    split_recurrent_kernel,
    update_and_reset,
)


def tangent_loop(
    static: Static, inputs: Inputs, fixed: Fixed, states: jax.Array, tangent: Inputs
) -> tuple[jax.Array, jax.Array]:
    """Runs the tangent of the loop, which is linear in `tangent`.

    Args:
        static: what the loop is compiled for; its activations must be pointwise.
        inputs: of the loop.
        fixed: which steps count, and which begin anew.
        states: `[t, ..., u]`, the state after every step.
        tangent: of `inputs`; None instead of `params`, `x` or a mask is zero.

    Returns:
        `(dstate [..., u], dstates [t, ..., u])`.
    """
    linearize = _linear_after if static.config.reset_after else _linear_before

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def chunk(params, source, masks, dparams, dreset_state, dmasks, carry, now):
        (state, dstate), (x, dx, states, valid, reset) = carry, now
        x = read_chunk(source, x)
        before = jnp.concatenate([state[None], states[:-1]])
        if reset is not None:
            before = where_steps(reset, inputs.reset_state[None], before)
        weights = _weights(params, static.config), _weights(dparams, static.config)
        linear_step, terms = linearize(static, (masks, dmasks), weights, (x, dx), before, valid)

        def step(dstate, now):
            terms, reset = now
            if reset is not None:
                dstate = where_steps(reset, dreset_state, dstate)
            dstate = linear_step(dstate, terms)
            return dstate, dstate

        dstate, dstates = lax.scan(step, dstate, (terms, reset))
        return (states[-1], dstate), dstates

    # The transpose of a slice is an array of full size: not for inputs with a gradient.
    source, x = by_chunk(inputs.x, static.batch_major and tangent.x is None)
    fixed_inputs = (inputs.params, source, inputs.masks)
    tangents = (tangent.params, tangent.reset_state, tangent.masks)
    body = functools.partial(chunk, *fixed_inputs, *tangents)
    steps = (x, tangent.x, states, fixed.valid, fixed.reset)
    start = (inputs.initial_state, tangent.initial_state)
    (_, dstate), dstates = over_chunks(body, start, steps, static.chunk)
    return dstate, dstates


class _Weights(NamedTuple):
    """A GRU's parameters, or their tangents, piece by piece; None where there is none."""

    kernel: jax.Array | None = None
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    gate_kernel: jax.Array | None = None
    candidate_kernel: jax.Array | None = None


def _weights(params: Params | None, config: GRUConfig) -> _Weights:
    """Takes parameters apart; where the reset gate acts after, all gates share `gate_kernel`."""
    if params is None:
        return _Weights()
    recurrent = params["recurrent_kernel"]
    kernels = (recurrent, None) if config.reset_after else split_recurrent_kernel(params)
    return _Weights(params["kernel"], *split_bias(params, config), *kernels)


def _linear_after(static, masks, weights, x, before, valid):
    """Linearises the steps of a chunk where the reset gate acts after the recurrent product.

    Args:
        static: of the loop.
        masks: dropout masks and their tangents.
        weights: the parameters and their tangents.
        x: `[k, ..., f]`, the inputs of the chunk, and their tangent.
        before: `[k, ..., u]`, the state that each step begins with.
        valid: `[k, ...]` boolean, or None.

    Returns:
        `(step, terms)`: `step(dstate, terms of one step) -> dstate`, and the terms of all steps.
    """
    recurrent_masks, dot = [each.recurrent for each in masks], _step_dot(static)
    kernel, dkernel = (each.gate_kernel for each in weights)
    bias, dbias = (each.recurrent_bias for each in weights)
    x_projection, dx_projection = _projected_inputs(static, masks, weights, x)
    projection = project(before, kernel, bias, _each_step(recurrent_masks[0]), static.precision)
    dprojection = _sum(_products(static, (before, None), (kernel, dkernel), recurrent_masks), dbias)

    def new_state(update, reset, recurrent, candidate, before):
        x_gates, gates = (*x_projection[:2], candidate), (update, reset, recurrent)
        return _held(valid, gates_after(x_gates, gates, before, static.config), before)

    update, reset, recurrent, candidate, through = _partials(
        new_state, *split_gates(projection), x_projection[2], before
    )
    gates = jnp.stack([update, reset, recurrent], axis=-2)
    x_gates = jnp.stack([update, reset, candidate], axis=-2)
    constant = _weighted(gates, dprojection) + _weighted(x_gates, dx_projection)

    def step(dstate, terms):
        constant, gates, through = terms
        dprojection = project(dstate, kernel, None, recurrent_masks[0], static.precision, dot)
        return constant + _weighted(gates, dprojection) + through * dstate

    return step, (constant, gates, through)


def _linear_before(static, masks, weights, x, before, valid):
    """Linearises the steps of a chunk where the reset gate acts before the recurrent product.

    Args and returns as `_linear_after`.
    """
    config, dot = static.config, _step_dot(static)
    gate_masks, candidate_masks = zip(*(split_masks(each.recurrent) for each in masks), strict=True)
    gate_mask, candidate_mask = gate_masks[0], candidate_masks[0]
    gate_kernels = [each.gate_kernel for each in weights]
    candidate_kernels = [each.candidate_kernel for each in weights]
    x_projection, dx_projection = _projected_inputs(static, masks, weights, x)
    projection = project(before, gate_kernels[0], None, _each_step(gate_mask), static.precision)
    update_projection, reset_projection = split_gates(projection, 2)

    def kept_state(reset, before):
        gates = update_and_reset(x_projection, (update_projection, reset), config)
        return gates[1] * before

    def new_state(update, recurrent, before):
        gates = update_and_reset(x_projection, (update, reset_projection), config)
        return _held(valid, blend(gates[0], x_projection[2] + recurrent, before, config), before)

    kept = kept_state(reset_projection, before)
    mask = _each_step(candidate_mask)
    recurrent = project(kept, candidate_kernels[0], None, mask, static.precision)
    reset, keeping = _partials(kept_state, reset_projection, before)
    update, candidate, through = _partials(new_state, update_projection, recurrent, before)

    dprojection = _products(static, (before, None), gate_kernels, gate_masks)
    drecurrent = _products(static, (kept, None), candidate_kernels, candidate_masks)
    if dx_projection is not None:
        width = projection.shape[-1]
        dprojection = _sum(dx_projection[..., :width], dprojection)
        drecurrent = _sum(dx_projection[..., width:], drecurrent)
    zeros = jnp.zeros_like(before)
    dupdate, dreset = (zeros, zeros) if dprojection is None else split_gates(dprojection, 2)
    constant = update * dupdate + (zeros if drecurrent is None else candidate * drecurrent)

    def step(dstate, terms):
        constant, dkept, update, reset, keeping, candidate, through = terms
        dprojection = project(dstate, gate_kernels[0], None, gate_mask, static.precision, dot)
        dupdate, dreset = split_gates(dprojection, 2)
        dkept = dkept + reset * dreset + keeping * dstate
        dcandidate = project(
            dkept, candidate_kernels[0], None, candidate_mask, static.precision, dot
        )
        return constant + update * dupdate + candidate * dcandidate + through * dstate

    return step, (constant, reset * dreset, update, reset, keeping, candidate, through)


def _projected_inputs(static, masks, weights, x):
    """Projects a chunk's inputs.

    Returns:
        The projections of the gates, and the tangent of all of them side by side, or None.
    """
    masks = [each.inputs for each in masks]
    kernels = [each.kernel for each in weights]
    projection = project(x[0], kernels[0], weights[0].bias, _each_step(masks[0]), static.precision)
    return split_gates(projection), _sum(_products(static, x, kernels, masks), weights[1].bias)


def _products(static, x, kernels, masks) -> jax.Array | None:
    """Computes the tangent of `x @ kernel` over a chunk.

    Args:
        static: of the loop.
        x: `[k, ..., f]` and its tangent.
        kernels: `[f, n u]` and its tangent.
        masks: `[n, ..., f]`, dropout masks and their tangent, each or None.

    Returns:
        `[k, ..., n u]`; None where none of them has a tangent.
    """
    (x, dx), (kernel, dkernel), (mask, dmask) = x, kernels, map(_each_step, masks)
    product = functools.partial(project, precision=static.precision, dot=flat_dot)
    by_kernel = None if dkernel is None else product(x, dkernel, masks=mask)
    by_mask = None if dmask is None else product(x, kernel, masks=dmask)
    by_x = None if dx is None else product(dx, kernel, masks=mask)
    return _sum(by_x, _sum(by_kernel, by_mask))


def _step_dot(static: Static) -> Dot:
    """Returns what computes the product of a step."""
    return turned_back_dot if static.turned_back else jnp.dot


def _partials(function: Callable[..., jax.Array], *arguments: jax.Array) -> tuple[jax.Array, ...]:
    """Computes a pointwise function's partial derivative by each argument."""
    # Pointwise, so that the derivative of the sum is that of each element.
    value, pullback = jax.vjp(function, *arguments)
    return pullback(jnp.ones_like(value))


def _weighted(weights: jax.Array, projection: jax.Array | None) -> jax.Array:
    """Adds up the gates of a projection `[..., n u]` with weights `[..., n, u]`; None is zero.

    The weights stay side by side: transposed, that is one multiplication for all gates.
    """
    if projection is None:
        return jnp.zeros_like(weights[..., 0, :])
    gates = projection.reshape(*projection.shape[:-1], *weights.shape[-2:])
    return (weights * gates).sum(axis=-2)


def _held(valid: jax.Array | None, new: jax.Array, state: jax.Array) -> jax.Array:
    """The state after a step: the new one, or the old one at masked steps."""
    return new if valid is None else where_steps(valid, new, state)


def _each_step(masks: jax.Array | None) -> jax.Array | None:
    """Gives dropout masks `[n, ..., f]` an axis for the steps of a chunk."""
    return None if masks is None else masks[:, None]


def _sum(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    """Adds tangents, where None is zero; the second may have fewer axes."""
    if one is None or other is None:
        return other if one is None else one
    return one + jnp.expand_dims(other, range(one.ndim - other.ndim))
