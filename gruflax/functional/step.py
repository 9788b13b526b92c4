"""One step of a GRU: first its equations, then the functions that compute them.

x is the input [..., f], h the state before the step [..., u] and h' the state after it; the columns
of the kernel W [f, 3u] and of the recurrent kernel R [u, 3u] are z | r | n; s is the recurrent
activation, g the activation, and * is the elementwise product.

`reset_after=True` (cuDNN, torch, Keras 3; arXiv:1406.1078v1), bias [2, 3u] with the rows b and c:

    z = s(x W_z + b_z + h R_z + c_z)             the update gate: how much of the state stays
    r = s(x W_r + b_r + h R_r + c_r)             the reset gate
    n = g(x W_n + b_n + r * (h R_n + c_n))       the candidate

`reset_after=False` (arXiv:1406.1078v3, Keras 1), bias [3u]:

    z = s(x W_z + b_z + h R_z)
    r = s(x W_r + b_r + h R_r)
    n = g(x W_n + b_n + (r * h) R_n)

Both:

    h' = z * h + (1 - z) * n

Dropout multiplies x, and h in the products with R, but not h in the last equation. At inference,
zoneout of rate p replaces z by its expectation, z + p (1 - z).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.activations import activate
from gruflax.functional.checks import check_inputs, check_key, check_state, compute_dtype
from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import (
    DropoutMasks,
    draw_zoneout,
    drop_weights,
    resolve_dropout_masks,
    split_masks,
)
from gruflax.functional.params import (
    Params,
    cast_params,
    check_params,
    split_bias,
    split_gates,
    split_recurrent_kernel,
)
from gruflax.functional.sharding import beside, mesh_of, sharded_like


# Projections of the gates z, r, n or z, r, each `[..., u]`.
Gates = tuple[jax.Array, ...]
# A matrix product `dot(x, kernel, precision=...)`.
Dot = Callable[..., jax.Array]


def project(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    masks: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
    dot: Dot = jnp.dot,
) -> jax.Array:
    """Computes `x W + b` `[..., k]`, after dropout of x by masks `[n, ..., f]`."""
    if masks is None:
        product = dot(x, kernel, precision=precision)
    elif masks.shape[0] == 1:
        product = dot(x * masks[0], kernel, precision=precision)
    else:
        kernels = jnp.split(kernel, masks.shape[0], axis=-1)
        products = [
            dot(x * mask, gate, precision=precision)
            for mask, gate in zip(masks, kernels, strict=True)
        ]
        product = jnp.concatenate(products, axis=-1)
    return product if bias is None else product + jnp.expand_dims(bias, range(product.ndim - 1))


def update_and_reset(x: Gates, h: Gates, config: GRUConfig) -> tuple[jax.Array, jax.Array]:
    """Computes z and r `[..., u]` from the projections of the input and of the state."""
    s = functools.partial(activate, "recurrent_activation", config.recurrent_activation)
    z, r = s(x[0] + h[0]), s(x[1] + h[1])
    if config.zoneout:
        z = z + config.zoneout * (1 - z)
    return z, r


def blend(z: jax.Array, a: jax.Array, h: jax.Array, config: GRUConfig) -> jax.Array:
    """Computes h' `[..., u]` from z, the argument a of g, and h."""
    n = activate("activation", config.activation, a)
    return z * h + (1 - z) * n


def step(
    params: Params,
    x: Gates,
    h: jax.Array,
    config: GRUConfig,
    masks: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
    dot: Dot = jnp.dot,
) -> tuple[jax.Array, Gates]:
    """Computes `(h', (z, r, a))`, each `[..., u]`, from the projections of x and h; n = g(a)."""
    if config.reset_after:
        _, c = split_bias(params, config)
        h_z, h_r, h_n = split_gates(
            project(h, params["recurrent_kernel"], c, masks, precision, dot)
        )
        z, r = update_and_reset(x, (h_z, h_r), config)
        a = x[2] + r * h_n
    else:
        gate_kernel, candidate_kernel = split_recurrent_kernel(params)
        gate_masks, candidate_mask = split_masks(masks)
        gates = split_gates(project(h, gate_kernel, None, gate_masks, precision, dot), 2)
        z, r = update_and_reset(x, gates, config)
        a = x[2] + project(r * h, candidate_kernel, None, candidate_mask, precision, dot)
    return blend(z, a, h, config), (z, r, a)


def gru_cell_step(
    params: Params,
    state: ArrayLike | None,
    x: ArrayLike,
    rng: jax.Array | None = None,
    *,
    config: GRUConfig = GRUConfig(),
    dropout_masks: DropoutMasks | None = None,
    zoneout_rng: jax.Array | None = None,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes one step of a GRU; fits `jax.lax.scan`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent;
            columns z | r | h, as in Keras.
        state: `[..., u]`, the state before the step; None means zeros.
        x: `[..., f]`, with the batch axes of `state`.
        rng: JAX random key for dropout, or None, the default, for inference. The masks depend on
            the key and the shapes only: the same key at every step gives the same masks.
        config: the options of the GRU; by default `GRUConfig()`, which has Keras 3's defaults.
        dropout_masks: `DropoutMasks` to use instead of drawing them; None by default.
        zoneout_rng: JAX random key for zoneout, another one at every step; None, the default, is
            `rng`.
        dtype: dtype to compute in; None, the default, promotes those of `params` and `x`.
        precision: precision of the matrix products, as in `jax.numpy.dot`; None by default.

    Returns:
        `(state, output)`, twice the same array `[..., u]` in the compute dtype.

    Raises:
        TypeError: `dtype` is not a floating dtype, or `x` holds token ids.
        ValueError: a shape does not fit; the message names the argument.

    Sources: Keras 3 and `tf.compat.v1.keras.layers.GRUCell`; arXiv:1406.1078.
    """
    features, units = check_params(params, config)
    x = check_inputs("x", x, features, "...", 1)
    check_key("rng", rng)
    check_key("zoneout_rng", zoneout_rng)
    dtype = compute_dtype(dtype, params, x)
    with mesh_of(x):
        params, x = cast_params(params, dtype), x.astype(dtype)
        params = {name: beside(each, x) for name, each in params.items()}
        batch_shape = x.shape[:-1]
        batch = range(len(batch_shape))
        h = sharded_like(check_state("state", state, batch_shape, units, dtype), x, batch)
        masks = resolve_dropout_masks(
            dropout_masks, rng, batch_shape, features, units, config, dtype
        )
        params, masks = drop_weights(params, masks)
        zoneout_rng = rng if zoneout_rng is None else zoneout_rng
        zoneout_mask, config = draw_zoneout(zoneout_rng, config, h.shape)
        b, _ = split_bias(params, config)
        projections = split_gates(project(x, params["kernel"], b, masks.inputs, precision))
        new, _ = step(params, projections, h, config, masks.recurrent, precision)
        if zoneout_mask is not None:
            new = jnp.where(sharded_like(zoneout_mask, x, batch), new, h)
        return new, new
