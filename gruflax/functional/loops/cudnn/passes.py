"""cuDNN's forward and backward pass as JAX functions, on XLA's own stream and buffers."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.buffer_callback import buffer_callback
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.typing import DTypeLike

from gruflax.functional.loops.cudnn.library import load_cudnn
from gruflax.functional.loops.cudnn.problem import Problem
from gruflax.functional.sharding import vary_with


def forward(
    problem: Problem, weights: jax.Array, state: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Runs a GRU forward.

    Under `jax.vmap` over data, inference is one call with a larger batch.
    """

    @custom_vmap
    def call(weights, state, x):
        sized = _sized(problem, x)
        sizes = load_cudnn().sizes(sized)
        states = jax.ShapeDtypeStruct((*x.shape[:-1], problem.units), x.dtype)
        results = states, _bytes(sizes.reserve), _bytes(sizes.workspace)

        def queue(stream, results, lengths, x, state, weights):
            states, reserve, workspace = results
            load_cudnn().forward(
                stream, sized, lengths, x, state, weights, states, workspace, reserve
            )

        states, reserve, _ = _called(queue, results, _lengths(sized), x, state, weights)
        return states, reserve

    @call.def_vmap
    def rule(count, mapped, weights, state, x):
        if not count or mapped[0] or problem.training:
            # In training each member needs a reserve of its own, because its gradient of shared
            # weights is separate. And cuDNN refuses an empty batch.
            return _one_by_one(call, mapped, (weights, state, x)), (True, True)
        state, x = (
            _fold(array) if each else _fold(jnp.broadcast_to(array, (count, *array.shape)))
            for array, each in zip((state, x), mapped[1:], strict=True)
        )
        states, reserve = call(weights, state, x)
        states = states.reshape(*states.shape[:-2], count, -1, problem.units)
        return (jnp.moveaxis(states, -3, 0), reserve), (True, False)

    return call(weights, state, x)


def backward(
    problem: Problem,
    weights: jax.Array,
    state: jax.Array,
    x: jax.Array,
    states: jax.Array,
    reserve: jax.Array,
    dstates: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs a GRU backward."""

    @custom_vmap
    def call(weights, state, x, states, reserve, dstates):
        sized = _sized(problem, x)
        like = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (weights, reserve, state, x)]

        def queue(
            stream, results, _dweights, _reserve, lengths, x, state, weights, states, dstates
        ):
            dweights, reserve, dstate, dx, workspace = results
            inputs = lengths, x, state, weights, states, dstates
            outputs = dx, dstate, dweights, workspace, reserve
            load_cudnn().backward(stream, sized, *inputs, *outputs)

        results = *like, _bytes(load_cudnn().sizes(sized).workspace)
        # The first two operands are results too: cuDNN adds to one and overwrites the other.
        changed = jnp.zeros_like(weights), reserve
        inputs = *changed, _lengths(sized), x, state, weights, states, dstates
        dweights, _, dstate, dx, _ = _called(queue, results, *inputs, changed=len(changed))
        return dweights, dstate, dx

    @call.def_vmap
    def rule(_, mapped, *arguments):
        return _one_by_one(call, mapped, arguments), (True, True, True)

    return call(weights, state, x, states, reserve, dstates)


def _called(
    queue: Callable[..., None],
    results: Sequence[jax.ShapeDtypeStruct],
    *inputs: jax.Array,
    changed: int = 0,
) -> list[jax.Array]:
    """Makes XLA call a function that queues work on XLA's stream."""

    def callback(context, out, *arguments):
        queue(
            _stream(context),
            [_address(each) for each in out],
            *map(_address, arguments),
        )

    types = [jax.ShapeDtypeStruct(each.shape, _raw_dtype(each.dtype)) for each in results]
    called = buffer_callback(
        callback, types, input_output_aliases={index: index for index in range(changed)}
    )
    raw = [lax.bitcast_convert_type(each, _raw_dtype(each.dtype)) for each in inputs]
    found = called(*_on_a_gpu(*raw))
    return [
        vary_with(lax.bitcast_convert_type(array, like.dtype), inputs)
        for array, like in zip(found, results, strict=True)
    ]


def _on_a_gpu(*arrays: jax.Array) -> list[jax.Array]:
    """Returns the same arrays, in a program that can be lowered for a GPU only."""
    return _on_a_gpu_p.bind(*arrays)


def _refuse(context: mlir.LoweringRuleContext, *_: object) -> NoReturn:
    platforms = ", ".join(map(repr, context.platforms or context.module_context.platforms))
    raise ValueError(
        "loop='cudnn' or use_cudnn=True cannot be met: the platform must be a GPU with CUDA, it is "
        f"{platforms}."
    )


# Without this primitive the callback could be lowered for a CPU, whose addresses cuDNN cannot read.
_on_a_gpu_p = Primitive("gru_on_a_gpu")
_on_a_gpu_p.multiple_results = True
_on_a_gpu_p.def_impl(jax.jit(_on_a_gpu))
_on_a_gpu_p.def_abstract_eval(lambda *types: types)
mlir.register_lowering(_on_a_gpu_p, _refuse)
mlir.register_lowering(_on_a_gpu_p, lambda _, *arrays: arrays, platform="cuda")


def _raw_dtype(dtype: DTypeLike) -> DTypeLike:
    """Returns the dtype to pass buffers as: those of bfloat16 have no array interface."""
    return np.uint16 if dtype == jnp.bfloat16 else dtype


def _stream(context: Any) -> int:
    """Returns the CUDA stream that XLA runs the program on."""
    return context.stream


def _address(buffer: Any) -> int:
    """Returns the address of a buffer on the GPU."""
    return buffer.__cuda_array_interface__["data"][0]


def _one_by_one(
    call: Callable[..., tuple[jax.Array, ...]],
    mapped: Sequence[bool],
    arguments: Sequence[jax.Array],
) -> tuple[jax.Array, ...]:
    """Maps a call over the first axis of the arguments that are mapped."""

    def one(chosen):
        rest = iter(chosen)
        return call(*(next(rest) if each else a for a, each in zip(arguments, mapped, strict=True)))

    return lax.map(one, [a for a, each in zip(arguments, mapped, strict=True) if each])


def _fold(array: jax.Array) -> jax.Array:
    """Makes the first axis part of the batch: `[n, ..., b, k]` to `[..., n b, k]`."""
    array = jnp.moveaxis(array, 0, -3)
    return array.reshape(*array.shape[:-3], -1, array.shape[-1])


def _sized(problem: Problem, x: jax.Array) -> Problem:
    return problem._replace(time=x.shape[0], batch=x.shape[1])


def _lengths(problem: Problem) -> jax.Array:
    return jnp.full(problem.batch, problem.time, jnp.int32)


def _bytes(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.uint8)
