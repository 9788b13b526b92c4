"""The GRUs of other JAX libraries."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gruflax.bench.case import Case
from gruflax.bench.peers.peer import JAX_PEER, Inputs, Peer, Program, jax_program


def make_linen(case: Case, mode: str) -> Program:
    """Makes `flax.linen.RNN(GRUCell)`."""
    from flax import linen as nn

    dtype = jnp.dtype(case.dtype)
    # The default draws by QR, which knows no 16-bit floats.
    draw = nn.initializers.lecun_normal()
    cell = nn.GRUCell(case.units, dtype=dtype, param_dtype=dtype, recurrent_kernel_init=draw)
    layer = nn.RNN(cell)
    params = layer.init(jax.random.key(0), jnp.zeros((case.batch, 1, case.features), dtype))

    def apply(params: Any, inputs: Inputs) -> Any:
        return layer.apply(params, inputs.x, seq_lengths=inputs.lengths)

    return jax_program(case, mode, apply, params)


def make_nnx(case: Case, mode: str) -> Program:
    """Makes `flax.nnx.RNN(GRUCell)`."""
    from flax import nnx

    dtype = jnp.dtype(case.dtype)
    cell = nnx.GRUCell(case.features, case.units, dtype=dtype, rngs=nnx.Rngs(0))
    graph, params, others = nnx.split(nnx.RNN(cell, rngs=False), nnx.Param, ...)

    def apply(params: Any, inputs: Inputs) -> Any:
        layer = nnx.merge(graph, params, others)
        start = jnp.zeros((case.batch, case.units), inputs.x.dtype)
        return layer(inputs.x, initial_carry=start, seq_lengths=inputs.lengths)

    # Drawn in float32: QR knows no 16-bit floats.
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return jax_program(case, mode, apply, params)


def make_haiku(case: Case, mode: str) -> Program:
    """Makes `haiku.dynamic_unroll(GRU)`."""
    import haiku as hk

    unroll_core: Any = hk.dynamic_unroll

    def unroll(x: jax.Array) -> jax.Array:
        core = hk.GRU(case.units)
        state = jnp.zeros((case.batch, case.units), x.dtype)
        return unroll_core(core, x, state, time_major=False)[0]

    layer: Any = hk.without_apply_rng(hk.transform(unroll))
    start = jnp.zeros((case.batch, 1, case.features), case.dtype)
    params = layer.init(jax.random.key(0), start)
    return jax_program(case, mode, lambda params, inputs: layer.apply(params, inputs.x), params)


def make_equinox(case: Case, mode: str) -> Program:
    """Makes a scan over `equinox.nn.GRUCell`, vmapped over the batch as its users write it."""
    import equinox as eqx

    cell = eqx.nn.GRUCell(
        case.features, case.units, dtype=jnp.dtype(case.dtype), key=jax.random.key(0)
    )
    params, static = eqx.partition(cell, eqx.is_array)

    def apply(params: Any, inputs: Inputs) -> Any:
        cell = eqx.combine(params, static)

        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = cell(x, state)
            return state, state

        start = jnp.zeros(case.units, inputs.x.dtype)
        return jax.vmap(lambda sequence: lax.scan(step, start, sequence)[1])(inputs.x)

    return jax_program(case, mode, apply, params)


def make_keras(case: Case, mode: str) -> Program:
    """Makes `keras.layers.GRU` on its JAX backend.

    Raises:
        RuntimeError: Keras was imported with another backend.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"keras runs on {keras.backend.backend()}, not on JAX")
    # The default draws the recurrent kernel by QR, which knows no 16-bit floats.
    draw: Any = keras.initializers.GlorotUniform(seed=0)
    layer = keras.layers.GRU(
        case.units,
        return_sequences=True,
        reset_after=True,
        recurrent_initializer=draw,
        kernel_initializer=draw,
        dtype=case.dtype,
    )
    layer.build((case.batch, case.time, case.features))
    params, others = (
        [variable.value for variable in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    )

    def apply(params: Any, inputs: Inputs) -> Any:
        return layer.stateless_call(params, others, inputs.x, mask=inputs.mask)[0]

    return jax_program(case, mode, apply, params)


LENGTHS_NOTE = "takes lengths instead of a mask, and does not hold outputs at padded steps"

JAX_PEERS = (
    Peer("flax.linen", JAX_PEER, make_linen, ("flax",), "flax", mask_note=LENGTHS_NOTE),
    Peer("flax.nnx", JAX_PEER, make_nnx, ("flax",), "flax", mask_note=LENGTHS_NOTE),
    Peer(
        "haiku",
        JAX_PEER,
        make_haiku,
        ("haiku",),
        "dm-haiku",
        masks=False,
        note="resets before the recurrent product: the same products, in two parts",
    ),
    Peer("equinox", JAX_PEER, make_equinox, ("equinox",), "equinox", masks=False),
    Peer("keras", JAX_PEER, make_keras, ("keras",), "keras"),
)
