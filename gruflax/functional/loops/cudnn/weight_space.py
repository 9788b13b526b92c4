"""Packing a GRU's parameters into cuDNN's weight space, and unpacking them."""

import jax
import jax.numpy as jnp

from gruflax.functional.loops.cudnn.problem import Problem, Sizes
from gruflax.functional.params import GATES, Params


# The indices of Keras' gates z, r, h in cuDNN's order r, z, h. The permutation is its own inverse.
_ORDER = (1, 0, 2)


def pack(params: Params, sizes: Sizes) -> jax.Array:
    """Lays out parameters as cuDNN reads them."""
    matrices = [*_gates(params["kernel"]), *_gates(params["recurrent_kernel"])]
    biases = [*_gates(params["bias"][0]), *_gates(params["bias"][1])]
    pieces = [matrix.T.reshape(-1) for matrix in matrices] + biases
    dtype = params["kernel"].dtype
    parts, end = [], 0
    for start, piece in sorted(
        zip(_elements(sizes, dtype), pieces, strict=True), key=lambda pair: pair[0]
    ):
        parts += [jnp.zeros(start - end, dtype), piece]
        end = start + piece.size
    return jnp.concatenate([*parts, jnp.zeros(sizes.weights // dtype.itemsize - end, dtype)])


def unpack(weights: jax.Array, problem: Problem, sizes: Sizes) -> Params:
    """Reads parameters from a weight space."""
    units, starts = problem.units, _elements(sizes, weights.dtype)

    def matrix(start: int, features: int) -> jax.Array:
        return weights[start : start + units * features].reshape(units, features).T

    widths = [problem.features] * GATES + [units] * GATES
    matrices = [matrix(*pair) for pair in zip(starts[: 2 * GATES], widths, strict=True)]
    biases = [weights[start : start + units] for start in starts[2 * GATES :]]
    return {
        "kernel": _joined(matrices[:GATES]),
        "recurrent_kernel": _joined(matrices[GATES:]),
        "bias": jnp.stack([_joined(biases[:GATES]), _joined(biases[GATES:])]),
    }


def _gates(array: jax.Array) -> list[jax.Array]:
    """Splits columns z | r | h into cuDNN's order."""
    gates = jnp.split(array, GATES, axis=-1)
    return [gates[index] for index in _ORDER]


def _joined(gates: list[jax.Array]) -> jax.Array:
    """Joins gates in cuDNN's order to columns z | r | h."""
    return jnp.concatenate([gates[index] for index in _ORDER], axis=-1)


def _elements(sizes: Sizes, dtype: jnp.dtype) -> list[int]:
    """Returns the offsets in numbers instead of bytes."""
    return [offset // dtype.itemsize for offset in sizes.offsets]
