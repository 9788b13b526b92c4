"""The chunked loop: products over chunks of time, and one derivative rule for every mode.

Forward, one product projects a chunk's inputs, and an inner loop multiplies by the recurrent kernel
once a step. The rule computes the tangent chunk by chunk from the states alone, and JAX transposes
it into a backward pass with weight gradients as products over chunks, which keeps the states and
nothing else of each step: `gruflax.functional.tangent`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from gruflax.functional.activations import is_pointwise
from gruflax.functional.chunks import Fixed, Inputs, Static, by_chunk, over_chunks, read_chunk
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops import where_steps
from gruflax.functional.products import turned_dot
from gruflax.functional.step import advance, project, split_bias, split_gates
from gruflax.functional.tangent import tangent_loop


def chunked_loop(
    static: Static, inputs: Inputs, fixed: Fixed
) -> tuple[jax.Array, jax.Array | None]:
    """Runs a GRU over a sequence, chunk by chunk.

    Args:
        static: what it is compiled for.
        inputs: parameters, states, `x` `[t, ..., f]` and dropout masks, in the compute dtype.
        fixed: which steps count and which begin anew.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.
    """
    config = static.config
    if is_pointwise(config.activation) and is_pointwise(config.recurrent_activation):
        return _ruled_loop(static, inputs, fixed)
    # Activations that may mix units (softmax, a user's own) have no partial derivatives unit by
    # unit: each chunk is computed once more in the backward pass, and differentiated by JAX.
    static = static._replace(turned=False, batch_major=False)
    return _forward_loop(static, inputs, fixed, jax.checkpoint)


def _forward_loop(static: Static, inputs: Inputs, fixed: Fixed, wrap=lambda chunk: chunk):
    """Runs the loop; `wrap` is applied to the function that runs one chunk."""
    config, masks, params, dot = static.config, inputs.masks, inputs.params, jnp.dot
    if static.turned and config.reset_after and masks.recurrent is None:
        params = {**params, "recurrent_kernel": params["recurrent_kernel"].T}
        dot = turned_dot

    def chunk(params, source, reset_state, state, now):
        x, valid, reset = now
        x = read_chunk(source, x)
        mask = None if masks.inputs is None else masks.inputs[:, None]
        bias, _ = split_bias(params, config)
        x_projection = project(x, params["kernel"], bias, mask, static.precision)
        advanced = functools.partial(
            advance, config=config, masks=masks.recurrent, precision=static.precision, dot=dot
        )

        def step(state, now):
            x_projection, valid, reset = now
            state = state if reset is None else where_steps(reset, reset_state, state)
            new = advanced(params, x_projection, state)
            new = new if valid is None else where_steps(valid, new, state)
            return new, new if static.keep_states else None

        # One array a gate: XLA's CPU code for a slice of a packed one is not vectorised.
        return lax.scan(step, state, (split_gates(x_projection), valid, reset))

    source, x = by_chunk(inputs.x, static.batch_major)
    body = functools.partial(wrap(chunk), params, source, inputs.reset_state)
    steps = (x, fixed.valid, fixed.reset)
    return over_chunks(body, inputs.initial_state, steps, static.chunk)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _ruled_loop(static, inputs, fixed):
    return _forward_loop(static, inputs, fixed)


@functools.partial(_ruled_loop.defjvp, symbolic_zeros=True)
def _ruled_loop_jvp(static, primals, tangents):
    inputs, fixed = primals
    state, states = _ruled_loop(static._replace(keep_states=True), inputs, fixed)
    # Without a tangent of inputs or parameters, products with zeros are left out.
    given = tangents[0]
    tangent = Inputs(*(_instantiate(*pair) for pair in zip(given, inputs, strict=True)))
    tangent = tangent._replace(
        params=None if _is_zero(given.params) else tangent.params,
        x=None if _is_zero(given.x) else tangent.x,
        masks=DropoutMasks(
            *(
                None if _is_zero(dmask) else mask
                for dmask, mask in zip(given.masks, tangent.masks, strict=True)
            )
        ),
    )
    dstate, dstates = tangent_loop(static, inputs, fixed, states, tangent)
    if not static.keep_states:
        return (state, None), (dstate, None)
    return (state, states), (dstate, dstates)


def _is_zero(tangent) -> bool:
    """Returns whether all of a tangent is known to be zero."""
    leaves = jax.tree.leaves(tangent, is_leaf=_is_symbol)
    return all(map(_is_symbol, leaves))


def _instantiate(tangent, primal):
    return jax.tree.map(
        lambda leaf, like: jnp.zeros_like(like) if _is_symbol(leaf) else leaf,
        tangent,
        primal,
        is_leaf=_is_symbol,
    )


def _is_symbol(leaf) -> bool:
    return isinstance(leaf, SymbolicZero)
