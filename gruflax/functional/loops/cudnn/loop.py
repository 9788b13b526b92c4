"""The cuDNN loop: one call of cuDNN forward and one backward. Experimental: no GPU has run it yet.

Known limits: cuDNN has one kind of GRU, one dropout mask for all gates and no resets
(`conditions`); only its standard algorithm is used; under `jax.vmap` a training step is one call
for each member; a program that is lowered for several platforms cannot contain it, even in a branch
for GPUs alone.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gruflax.functional.call import Call
from gruflax.functional.config import GRUConfig
from gruflax.functional.loops.cudnn import passes
from gruflax.functional.loops.cudnn.conditions import check_cudnn as check_cudnn
from gruflax.functional.loops.cudnn.library import load_cudnn
from gruflax.functional.loops.cudnn.problem import Problem, Settings
from gruflax.functional.loops.cudnn.weight_space import pack, unpack
from gruflax.functional.params import split_bias, split_gates
from gruflax.functional.sharding import vary_with
from gruflax.functional.step import project, step


def cudnn_loop(call: Call, settings: Settings = Settings()) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call in cuDNN: `(outputs [..., t, u] or None, the last state [..., u])`.

    cuDNN computes first derivatives in reverse mode. It has no forward mode, so that forward mode
    and derivatives of derivatives are those of a scan.
    """
    first, mask = call.cleared().ordered(), call.masks.inputs
    steps = first.steps
    time, *batch, features = steps.inputs.shape
    units = call.initial_state.shape[-1]
    x = steps.inputs if mask is None else steps.inputs * mask
    x, state = x.reshape(time, -1, features), call.initial_state.reshape(-1, units)
    sizes = time, x.shape[1], features, units
    problem = Problem(*sizes, x.dtype.name, _allows_tf32(call.precision), settings=settings)
    weights = pack(call.params, load_cudnn().sizes(problem))
    weights, state, x = (vary_with(each, weights, state, x) for each in (weights, state, x))
    run = functools.partial(_run, problem)
    if steps.valid is None:
        states = run(weights, state, x)
    else:
        valid = steps.valid.reshape(time, -1)
        states = _over_valid_steps(functools.partial(run, weights, state), state, x, valid)
    states = states.reshape(time, *batch, units)
    return call.outputs(states) if call.return_sequences else None, states[-1]


def _over_valid_steps(
    run: Callable[[jax.Array], jax.Array], state: jax.Array, x: jax.Array, valid: jax.Array
) -> jax.Array:
    """Runs over the steps that count, moved to the front, and spreads out the states again.

    cuDNN has no masks, only lengths, which must be positive and in the memory of the host. Moving
    steps allows any mask, without waiting for lengths to be copied from the GPU.
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
    return passes.forward(problem, weights, state, x)


@_states.defjvp
def _states_jvp(problem, primals, tangents):
    states, reserve = _states(problem, *primals)
    _, dstates = jax.jvp(functools.partial(_scanned, problem), primals, tangents)
    return (states, reserve), (dstates, jnp.zeros(reserve.shape, jax.dtypes.float0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradients(problem, weights, state, x, states, reserve, dstates):
    return passes.backward(problem, weights, state, x, states, reserve, dstates)


@_gradients.defjvp
def _gradients_jvp(problem, primals, tangents):
    # `states` and the reserve need no tangents, because the scan starts from the inputs.
    *inputs, _, _, dstates = primals
    *dinputs, _, _, ddstates = tangents

    def gradients(weights, state, x, dstates):
        return jax.vjp(functools.partial(_scanned, problem), weights, state, x)[1](dstates)

    _, tangent = jax.jvp(gradients, (*inputs, dstates), (*dinputs, ddstates))
    return _gradients(problem, *primals), tangent


def _scanned(problem: Problem, weights: jax.Array, state: jax.Array, x: jax.Array) -> jax.Array:
    """Computes the states `[t, b, u]` by a scan."""
    params = unpack(weights, problem, load_cudnn().sizes(problem))
    config, precision = GRUConfig(), None if problem.tensor_cores else lax.Precision.HIGHEST
    b, _ = split_bias(params, config)

    def one_step(h, x):
        x = split_gates(project(x, params["kernel"], b, precision=precision))
        h, _ = step(params, x, h, config, precision=precision)
        return h, h

    return lax.scan(one_step, state, x)[1]


# The names of precisions that are as exact as float32, and the endings of those that are nearly so,
# because they add up products of several parts, for example BF16_BF16_F32_X6.
_FULL = ("HIGHEST", "FLOAT32", "F32_F32_F32", "F64_F64_F64")
_IN_PARTS = ("_X3", "_X6", "_X9")


def _allows_tf32(precision: lax.PrecisionLike) -> bool:
    """Returns whether products of float32 may be as inexact as TF32 makes them."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(precision, lax.DotAlgorithm):
        rounded = np.dtype(precision.lhs_precision_type)
        return precision.num_primitive_operations == 1 and rounded not in (np.float32, np.float64)
    if isinstance(precision, (tuple, list)):
        return any(map(_allows_tf32, precision))
    name = str(getattr(precision, "name", precision)).upper()
    return name not in _FULL and not name.endswith(_IN_PARTS)
