"""The loop that is one call of cuDNN forward and one backward. Experimental: no GPU has run it yet.

Known limits: cuDNN knows one convention, one mask for all gates and no resets (`conditions`); only
its standard algorithm is asked for; under `jax.vmap` a training step is one call for each member.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.config import GRUConfig
from gruflax.functional.loops.cudnn import calls
from gruflax.functional.loops.cudnn.conditions import check_cudnn as check_cudnn
from gruflax.functional.loops.cudnn.library import load_cudnn
from gruflax.functional.loops.cudnn.problem import Problem
from gruflax.functional.loops.cudnn.weight_space import pack, unpack
from gruflax.functional.params import split_bias, split_gates
from gruflax.functional.sharding import vary_with
from gruflax.functional.step import project, step


def cudnn_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call in cuDNN: `(outputs [..., t, u] or None, the last state [..., u])`.

    First derivatives backwards are cuDNN's; those of derivatives are taken of a scan. cuDNN has no
    forward mode.
    """
    first, mask = call.cleared().ordered(), call.masks.inputs
    time, *batch, features = first.inputs.shape
    units = call.initial_state.shape[-1]
    x = first.inputs if mask is None else first.inputs * mask
    x, state = x.reshape(time, -1, features), call.initial_state.reshape(-1, units)
    tensor_cores = _allows_tf32(call.precision)
    problem = Problem(time, x.shape[1], features, units, x.dtype.name, tensor_cores)
    weights = pack(call.params, load_cudnn().sizes(problem))
    weights, state, x = (vary_with(each, weights, state, x) for each in (weights, state, x))
    run = functools.partial(_run, problem)
    if first.valid is None:
        states = run(weights, state, x)
    else:
        valid = first.valid.reshape(time, -1)
        states = _over_valid_steps(functools.partial(run, weights, state), state, x, valid)
    states = states.reshape(time, *batch, units)
    return call.outputs(states) if call.return_sequences else None, states[-1]


def _over_valid_steps(
    run: Callable[[jax.Array], jax.Array], state: jax.Array, x: jax.Array, valid: jax.Array
) -> jax.Array:
    """Runs over the steps that count, moved to the front, and spreads out the states.

    cuDNN knows lengths only, wants them on the host, and not of zero. This way any mask will do,
    with nothing to wait for.
    """
    order = jnp.argsort(~valid, axis=0, stable=True)
    states = run(jnp.take_along_axis(x, order[..., None], axis=0))
    counted = jnp.cumsum(valid, axis=0)[..., None]
    latest = jnp.take_along_axis(states, jnp.maximum(counted - 1, 0), axis=0)
    return jnp.where(counted > 0, latest, state[None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(problem, weights, state, x):
    return _states(problem, weights, state, x)[0]


def _run_forward(problem, weights, state, x):
    states, reserve = _states(problem._replace(training=True), weights, state, x)
    return states, (weights, state, x, states, reserve)


def _run_backward(problem, saved, dstates):
    return _gradients(problem._replace(training=True), *saved, dstates)


_run.defvjp(_run_forward, _run_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _states(problem, weights, state, x):
    return calls.forward(problem, weights, state, x)


@_states.defjvp
def _states_jvp(problem, primals, tangents):
    states, reserve = _states(problem, *primals)
    _, dstates = jax.jvp(functools.partial(_scanned, problem), primals, tangents)
    return (states, reserve), (dstates, jnp.zeros(reserve.shape, jax.dtypes.float0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradients(problem, weights, state, x, states, reserve, dstates):
    return calls.backward(problem, weights, state, x, states, reserve, dstates)


@_gradients.defjvp
def _gradients_jvp(problem, primals, tangents):
    # Of `states` and the reserve no tangent is taken: the scan computes them from the inputs.
    *inputs, _, _, dstates = primals
    *dinputs, _, _, ddstates = tangents

    def gradients(weights, state, x, dstates):
        return jax.vjp(functools.partial(_scanned, problem), weights, state, x)[1](dstates)

    _, tangent = jax.jvp(gradients, (*inputs, dstates), (*dinputs, ddstates))
    return _gradients(problem, *primals), tangent


def _scanned(problem: Problem, weights: jax.Array, state: jax.Array, x: jax.Array) -> jax.Array:
    """Computes the states `[t, b, u]` by a scan."""
    params = unpack(weights, problem, load_cudnn().sizes(problem))
    config = GRUConfig()
    b, _ = split_bias(params, config)

    def one_step(h, x):
        h, _ = step(params, split_gates(project(x, params["kernel"], b)), h, config)
        return h, h

    return lax.scan(one_step, state, x)[1]


_EXACT = (lax.Precision.HIGHEST, "highest", "float32", lax.DotAlgorithmPreset.F32_F32_F32)


def _allows_tf32(precision: lax.PrecisionLike) -> bool:
    """Returns whether JAX would compute float32 products in TF32."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    factors = precision if isinstance(precision, tuple) else (precision,)
    return any(factor not in _EXACT for factor in factors)
