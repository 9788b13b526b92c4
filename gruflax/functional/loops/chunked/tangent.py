"""The tangent of the chunked loop: its derivation, and its computation chunk by chunk.

In a step (`gruflax.functional.step`) let q = x W + b be the projection of the input, p that of
the state, and dv the tangent of any v. The product * is elementwise.

`reset_after=True`: p = h R + c, and h' = H(q, p, h). With the partial derivatives of H

    A = (H_pz, H_pr, H_pn)      B = (H_qz, H_qr, H_qn) = (A_z, A_r, H_qn)      D = H_h

    dh' = A . (dh R) + D * dh + [A . (h dR + dc) + B . (dx W + x dW + db)]

where A . v = A_z v_z + A_r v_r + A_n v_n. A, B, D and the bracket depend only on states that are
known, so they are computed for all steps of a chunk at once, by matrix products. The rest is linear
in dh, with one product per step. Its transpose, where e is the cotangent of h' and (A e)_i =
A_i * e, is

    cotangent of h:  (A e) R^T + D * e        of R:  h^T (A e)        of c:  A e
                of x:  (B e) W^T              of W:  x^T (B e)        of b:  B e

added up over steps and sequences for R, c, W and b.

`reset_after=False`: p = h [R_z | R_r], k = K(p_r, h) = r * h, m = k R_n and h' = H(p_z, m, h):

    dk = K_p * (dh R_r + [h dR_r + dq_r]) + K_h * dh
    dh' = H_p * (dh R_z + [h dR_z + dq_z]) + H_m * (dk R_n + [k dR_n + dq_n]) + H_h * dh

For masked steps and zoned out units H returns h. A step with a reset begins with the reset state f,
so that h = f and dh = df. Dropout masks multiply x, h and k before their products; tangents of the
masks add products of the same form.

Only the states are stored, one array `[t, ..., u]`. p, m and the partial derivatives are computed
again for each chunk. Each chunk is checkpointed, so that its transpose stores nothing per step.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import DropoutMasks, split_masks
from gruflax.functional.loops import thresholds
from gruflax.functional.loops.chunked import products
from gruflax.functional.params import Params, split_bias, split_gates, split_recurrent_kernel
from gruflax.functional.step import blend, project, update_and_reset
from gruflax.functional.time import Steps, hold, over_chunks, start_anew


class Tangents(NamedTuple):
    """The tangents of the arrays of a call; a tangent that is zero may be None."""

    initial_state: jax.Array
    reset_state: jax.Array
    params: Params | None = None
    inputs: jax.Array | None = None
    masks: DropoutMasks = DropoutMasks()


def tangent_states(
    call: Call, states: jax.Array, tangents: Tangents
) -> tuple[jax.Array, jax.Array]:
    """Computes `(dstates [t, ..., u], dh [..., u])`, linear in `tangents`.

    `states` `[t, ..., u]` are those after every step, in the order of processing. Activations must
    be pointwise.
    """
    linearize = _linear_after if call.config.reset_after else _linear_before
    # The transpose of slicing a chunk is an array as large as all inputs, and one would be added
    # per chunk. Inputs with a gradient are therefore put into order as a whole.
    read, x = products.chunk_reader(call, by_chunk=tangents.inputs is None)
    dx = None if tangents.inputs is None else call.in_order(tangents.inputs)

    # Without the checkpoint, the transpose would keep the partial derivatives of every step.
    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def chunk(arrays, darrays, carry, now):
        (params, masks, fresh), (dparams, dmasks, dfresh) = arrays, darrays
        (h, dh), (steps, dx, states) = carry, now
        before = start_anew(jnp.concatenate([h[None], states[:-1]]), steps.reset, fresh[None])
        weights = _Weights.of(params, call.config), _Weights.of(dparams, call.config)
        x = read(steps.inputs), dx
        given = _Given(call, weights, x, (masks, dmasks), before, steps)
        linear_step, terms = linearize(given)

        def body(dh, now):
            terms, reset = now
            dh = linear_step(start_anew(dh, reset, dfresh), terms)
            return dh, dh

        dh, dstates = lax.scan(body, dh, (terms, steps.reset), unroll=call.inner_unroll)
        return (states[-1], dh), dstates

    arrays, darrays = ((each.params, each.masks, each.reset_state) for each in (call, tangents))
    steps = call.ordered().steps._replace(inputs=x)
    body = functools.partial(chunk, arrays, darrays)
    start = call.initial_state, tangents.initial_state
    (_, dh), dstates = over_chunks(body, start, (steps, dx, states), call.chunk or 1)
    return dstates, dh


# A value and its tangent, which is None if it is zero.
Pair = tuple[jax.Array, jax.Array | None]
# The same for dropout masks, where the value may be None too.
MaskPair = tuple[jax.Array | None, jax.Array | None]
# The arrays `[k, ...]` that the linear step reads at each step of a chunk.
Terms = tuple[jax.Array, ...]


class _Weights(NamedTuple):
    """W, b, c, R and R_n; a weight that the GRU does not have is None.

    With `reset_after=True` the field `gate_kernel` is all of R. Otherwise it is [R_z | R_r], and
    `candidate_kernel` is R_n.
    """

    kernel: jax.Array | None = None
    b: jax.Array | None = None
    c: jax.Array | None = None
    gate_kernel: jax.Array | None = None
    candidate_kernel: jax.Array | None = None

    @classmethod
    def of(cls, params: Params | None, config: GRUConfig) -> "_Weights":
        """Splits parameters, or their tangents, into these weights."""
        if params is None:
            return cls()
        recurrent = params["recurrent_kernel"]
        kernels = (recurrent, None) if config.reset_after else split_recurrent_kernel(params)
        return cls(params["kernel"], *split_bias(params, config), *kernels)


class _Given(NamedTuple):
    """The values at which the steps of a chunk are linearised, in pairs with their tangents.

    Attributes:
        call: the call; only its static fields and its sizes are used.
        weights: the weights and their tangents.
        x: the inputs `[k, ..., f]` and their tangent.
        masks: the dropout masks and their tangents.
        h: `[k, ..., u]`, the state that each step begins with.
        steps: `Steps` of arrays `[k, ..., *]`.
    """

    call: Call
    weights: tuple[_Weights, _Weights]
    x: tuple[jax.Array, jax.Array | None]
    masks: tuple[DropoutMasks, DropoutMasks]
    h: jax.Array
    steps: Steps

    def pair(self, name: str) -> Pair:
        """Returns one of the weights and its tangent."""
        return getattr(self.weights[0], name), getattr(self.weights[1], name)

    def recurrent_masks(self) -> MaskPair:
        """Returns the masks of the state and their tangents."""
        return self.masks[0].recurrent, self.masks[1].recurrent

    def projected(
        self, h: jax.Array, kernel: jax.Array, bias: jax.Array | None, mask: jax.Array | None
    ) -> jax.Array:
        """Computes `h R + c` over the chunk."""
        return project(h, kernel, bias, _each_step(mask), self.call.precision)

    def inputs(self) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
        """Computes q of each gate, and dq `[k, ..., 3u]` or None."""
        masks = self.masks[0].inputs, self.masks[1].inputs
        kernel, (b, db) = self.pair("kernel"), self.pair("b")
        q = split_gates(self.projected(self.x[0], kernel[0], b, masks[0]))
        return q, _sum(self.product(self.x, kernel, masks), db)

    def product(self, factors: Pair, kernels: Pair, masks: MaskPair) -> jax.Array | None:
        """Computes the tangent of `(factor * mask) kernel`; None if it is zero."""
        (x, dx), (kernel, dkernel), (mask, dmask) = factors, kernels, map(_each_step, masks)
        dot = functools.partial(project, precision=self.call.precision, dot=products.flat_dot)
        by_x = None if dx is None else dot(dx, kernel, masks=mask)
        by_kernel = None if dkernel is None else dot(x, dkernel, masks=mask)
        by_mask = None if dmask is None else dot(x, kernel, masks=dmask)
        return _sum(by_x, _sum(by_kernel, by_mask))

    def step_product(
        self, kernel: jax.Array, mask: jax.Array | None
    ) -> Callable[[jax.Array], jax.Array]:
        """Returns the function `dh -> dh R`, in a form whose transpose is fast."""
        units = self.h.shape[-1]
        _, backward = thresholds.choose_products(thresholds.rows_of(self.call), units)
        dot = products.on_cpus(products.kernel_first_backward_dot) if backward else jnp.dot
        return lambda dh: project(dh, kernel, None, mask, self.call.precision, dot)


def _linear_after(given: _Given) -> tuple[Callable[..., jax.Array], Terms]:
    """Linearises a chunk of `reset_after=True`: `(step(dh, terms) -> dh', terms [k, ...])`."""
    config, h, mask = given.call.config, given.h, given.recurrent_masks()
    kernel, (c, dc) = given.pair("gate_kernel"), given.pair("c")
    (q_z, q_r, q_n), dq = given.inputs()
    p = split_gates(given.projected(h, kernel[0], c, mask[0]))
    dp = _sum(given.product((h, None), kernel, mask), dc)

    def new_state(p_z, p_r, p_n, q_n, h):
        z, r = update_and_reset((q_z, q_r), (p_z, p_r), config)
        return hold(blend(z, q_n + r * p_n, h, config), h, given.steps)

    # z and r depend on q + p alone, so that B shares these partial derivatives with A.
    a_z, a_r, a_n, b_n, d = _partials(new_state, *p, q_n, h)
    a, b = jnp.stack([a_z, a_r, a_n], axis=-2), jnp.stack([a_z, a_r, b_n], axis=-2)
    bracket = _dotted(a, dp) + _dotted(b, dq)
    product = given.step_product(kernel[0], mask[0])

    def step(dh, terms):
        bracket, a, d = terms
        return bracket + _dotted(a, product(dh)) + d * dh

    return step, (bracket, a, d)


def _linear_before(given: _Given) -> tuple[Callable[..., jax.Array], Terms]:
    """Linearises a chunk of `reset_after=False`: `(step(dh, terms) -> dh', terms [k, ...])`."""
    config, h = given.call.config, given.h
    gate_mask, candidate_mask = zip(*map(split_masks, given.recurrent_masks()), strict=True)
    gate_kernel, candidate_kernel = given.pair("gate_kernel"), given.pair("candidate_kernel")
    q, dq = given.inputs()
    p_z, p_r = split_gates(given.projected(h, gate_kernel[0], None, gate_mask[0]), 2)

    def kept(p_r, h):
        return update_and_reset(q, (p_z, p_r), config)[1] * h

    def new_state(p_z, m, h):
        z, _ = update_and_reset(q, (p_z, p_r), config)
        return hold(blend(z, q[2] + m, h, config), h, given.steps)

    k = kept(p_r, h)
    m = given.projected(k, candidate_kernel[0], None, candidate_mask[0])
    k_p, k_h = _partials(kept, p_r, h)
    h_p, h_m, h_h = _partials(new_state, p_z, m, h)

    width = 2 * h.shape[-1]
    dq_gates, dq_n = (None, None) if dq is None else (dq[..., :width], dq[..., width:])
    dp = _sum(dq_gates, given.product((h, None), gate_kernel, gate_mask))
    dm = _sum(dq_n, given.product((k, None), candidate_kernel, candidate_mask))
    zeros = jnp.zeros_like(h)
    dp_z, dp_r = (zeros, zeros) if dp is None else split_gates(dp, 2)
    bracket = h_p * dp_z + (zeros if dm is None else h_m * dm)
    gate_product = given.step_product(gate_kernel[0], gate_mask[0])
    candidate_product = given.step_product(candidate_kernel[0], candidate_mask[0])

    def step(dh, terms):
        bracket, dk, h_p, k_p, k_h, h_m, h_h = terms
        dp_z, dp_r = split_gates(gate_product(dh), 2)
        dk = dk + k_p * dp_r + k_h * dh
        return bracket + h_p * dp_z + h_m * candidate_product(dk) + h_h * dh

    return step, (bracket, k_p * dp_r, h_p, k_p, k_h, h_m, h_h)


def _partials(function: Callable[..., jax.Array], *arguments: jax.Array) -> tuple[jax.Array, ...]:
    """Computes a pointwise function's partial derivative by each argument."""
    # Each result depends on one element of each argument, so that the gradient of the sum of all
    # results holds the partial derivatives of each.
    value, pullback = jax.vjp(function, *arguments)
    return pullback(jnp.ones_like(value))


def _dotted(partials: jax.Array, projection: jax.Array | None) -> jax.Array:
    """Computes `A . v` `[..., u]` from A `[..., n, u]` and v `[..., n u]`, where None is zero.

    Gates stay side by side, so that the transpose is one multiplication for all of them.
    """
    if projection is None:
        return jnp.zeros_like(partials[..., 0, :])
    gates = projection.reshape(*projection.shape[:-1], *partials.shape[-2:])
    return (partials * gates).sum(axis=-2)


def _each_step(masks: jax.Array | None) -> jax.Array | None:
    """Gives dropout masks `[n, ..., f]` an axis for the steps of a chunk."""
    return None if masks is None else masks[:, None]


def _sum(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    """Adds two tangents, where None is zero; the second one may have fewer axes."""
    if one is None or other is None:
        return other if one is None else one
    return one + jnp.expand_dims(other, range(one.ndim - other.ndim))
