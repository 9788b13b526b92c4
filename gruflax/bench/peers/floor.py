"""The limit: the products of a GRU in the loops that they need, and no gates.

Forward, a product projects the inputs of a chunk of time and an inner loop multiplies the state by
the recurrent kernel. The gradients need a second inner loop with one product a step, and one
product a chunk for each kernel. Each product hangs on the one before it, so that the compiler can
neither hoist nor shorten any of them. What is saved and reread in between is that of the GRU, and
each product of a step has the form that gruflax's own loop chooses for it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.bench.case import VALUE_AND_GRAD, Case
from gruflax.bench.peers.peer import FLOOR, Peer, Program, compiled_program
from gruflax.functional.loops.products import choose_products, turned_back_dot, turned_dot


LONGEST_CHUNK = 50

Kernels = tuple[jax.Array, jax.Array]


def make_floor(case: Case, mode: str) -> Program:
    """Makes the products of a case; masks cost none.

    Args:
        case: the problem; where `time` has no even chunks it is rounded up to such.
        mode: "forward" or "value_and_grad".

    Returns:
        The `Program`, whose results mean nothing.
    """
    chunks = math.ceil(case.time / LONGEST_CHUNK)
    length = math.ceil(case.time / chunks)
    draws = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(draws[0], (chunks, length, case.batch, case.features), case.dtype)
    kernel = jax.nn.initializers.normal(0.1)(draws[1], (case.features, 3 * case.units), case.dtype)
    function = _with_gradients if mode == VALUE_AND_GRAD else _forward
    return compiled_program(case, function, (kernel, _orthogonal_blocks(draws[2], case)), x)


def _orthogonal_blocks(key: jax.Array, case: Case) -> jax.Array:
    """Draws `[u, 3u]` of orthogonal blocks: no state grows, or fades to slow subnormal numbers."""
    block = jax.nn.initializers.orthogonal()(key, (case.units, case.units), jnp.float32)
    return jnp.tile(block, (1, 3)).astype(case.dtype)


def _forward(kernels: Kernels, x: jax.Array) -> tuple[Any, jax.Array]:
    """Returns the last products and the states `[chunks, k, b, u]`."""
    kernel, recurrent = kernels
    units, columns = recurrent.shape
    _, length, batch, _ = x.shape
    turned, _ = choose_products(batch, units)
    dot, factor = (turned_dot, recurrent.T) if turned else (jnp.dot, recurrent)

    def step(product: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        state = product[:, :units]
        return dot(state, factor), state

    def chunk(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[Any, jax.Array]:
        product, states = lax.scan(step, carry[0], None, length)
        return (product, jnp.dot(x, kernel)), states

    start = jnp.ones((batch, columns), x.dtype), jnp.zeros((length, batch, columns), x.dtype)
    return lax.scan(chunk, start, x)


def _with_gradients(kernels: Kernels, x: jax.Array) -> tuple[Any, Any]:
    """Returns what `_forward` does, and products as large as the kernels' gradients."""
    kernel, recurrent = kernels
    units, columns = recurrent.shape
    _, length, batch, features = x.shape
    last, states = _forward(kernels, x)
    _, turned_back = choose_products(batch, units)
    dot = turned_back_dot if turned_back else jnp.dot
    pull_back = jax.linear_transpose(lambda state: dot(state, recurrent), states[0, 0])

    def step(cotangent: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return cotangent.at[:, :units].set(pull_back(cotangent)[0]), cotangent

    def chunk(carry: Any, saved: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        cotangent, of_kernel, of_recurrent = carry
        x, states = saved
        cotangent, stacked = lax.scan(step, cotangent, None, length)
        stacked = stacked.reshape(length * batch, columns)
        of_kernel += jnp.dot(x.reshape(length * batch, features).T, stacked)
        of_recurrent += jnp.dot(states.reshape(length * batch, units).T, stacked)
        return (cotangent, of_kernel, of_recurrent), None

    start = (last[0] * 1e-3, jnp.zeros_like(kernel), jnp.zeros_like(recurrent))
    gradients, _ = lax.scan(chunk, start, (x, states), reverse=True)
    return (last, states[-1, -1]), gradients


FLOOR_PEER = Peer(
    "matmul floor", FLOOR, make_floor, note="only the products of a GRU: the limit, not a GRU"
)
