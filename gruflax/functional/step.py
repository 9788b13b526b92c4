"""One step of a GRU: the arithmetic that every loop shares."""

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
)
from gruflax.functional.params import GATES, Params, cast_params, check_params


# Projections or gates side by side: z, r and h, each `[..., u]`.
Gates = tuple[jax.Array, ...]
# `dot(x, kernel, precision=...)`.
Dot = Callable[..., jax.Array]


def update_and_reset(
    x_projection: Gates, state_projection: Gates, config: GRUConfig
) -> tuple[jax.Array, jax.Array]:
    """Computes the update gate z and the reset gate r from their projections.

    Args:
        x_projection: of the input: z and r, each `[..., u]`; anything after them is not used.
        state_projection: of the state, in the same order.
        config: the GRU.

    Returns:
        `(z, r)`, each `[..., u]`.
    """
    activation = functools.partial(activate, "recurrent_activation", config.recurrent_activation)
    update = activation(x_projection[0] + state_projection[0])
    if config.zoneout:
        # In expectation, so much of what would be updated keeps its state.
        update = update + config.zoneout * (1 - update)
    return update, activation(x_projection[1] + state_projection[1])


def opened_after(
    x_projection: Gates, state_projection: Gates, config: GRUConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gates where the reset gate acts after the recurrent product.

    Args:
        x_projection: of the input: z, r and h, each `[..., u]`.
        state_projection: of the state: z, r and h.
        config: the GRU.

    Returns:
        `(z, r, candidate before its activation)`, each `[..., u]`.
    """
    update, reset = update_and_reset(x_projection, state_projection, config)
    return update, reset, x_projection[2] + reset * state_projection[2]


def gates_after(
    x_projection: Gates, state_projection: Gates, state: jax.Array, config: GRUConfig
) -> jax.Array:
    """Computes the new state where the reset gate acts after the recurrent product.

    Args:
        x_projection: of the input: z, r and h, each `[..., u]`.
        state_projection: of the state: z, r and h.
        state: `[..., u]`, the state before the step, never dropped.
        config: the GRU.

    Returns:
        `[..., u]`, the state after the step.
    """
    update, _, candidate = opened_after(x_projection, state_projection, config)
    return blend(update, candidate, state, config)


def blend(
    update: jax.Array, candidate_projection: jax.Array, state: jax.Array, config: GRUConfig
) -> jax.Array:
    """Moves the state towards the candidate: `z h + (1 - z) activation(candidate)`.

    Args:
        update: `[..., u]`, the update gate z.
        candidate_projection: `[..., u]`, the candidate before its activation.
        state: `[..., u]`, the state before the step, never dropped.
        config: the GRU.

    Returns:
        `[..., u]`, the state after the step.
    """
    candidate = activate("activation", config.activation, candidate_projection)
    return update * state + (1 - update) * candidate


def project(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    masks: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
    dot: Dot = jnp.dot,
) -> jax.Array:
    """Computes `x @ kernel + bias`, with inputs dropped for all gates alike or gate by gate.

    Args:
        x: `[..., f]`.
        kernel: `[f, k]`, the columns of as many gates as `masks` has entries.
        bias: `[k]`, or None.
        masks: `[n, ..., f]`: one for all gates or one a gate; or None.
        precision: of the product.
        dot: computes the product.

    Returns:
        `[..., k]`.
    """
    if masks is None:
        result = dot(x, kernel, precision=precision)
    elif masks.shape[0] == 1:
        result = dot(x * masks[0], kernel, precision=precision)
    else:
        blocks = jnp.split(kernel, masks.shape[0], axis=-1)
        result = jnp.concatenate(
            [
                dot(x * mask, block, precision=precision)
                for mask, block in zip(masks, blocks, strict=True)
            ],
            axis=-1,
        )
    return result if bias is None else result + jnp.expand_dims(bias, range(result.ndim - 1))


def split_bias(params: Params, config: GRUConfig) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns the bias of the input's and of the state's projection, each `[3u]` or None."""
    if not config.use_bias:
        return None, None
    return tuple(params["bias"]) if config.reset_after else (params["bias"], None)


def open_gates(
    params: Params,
    x_projection: Gates,
    state: jax.Array,
    config: GRUConfig,
    masks: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
    dot: Dot = jnp.dot,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gates of a step from a projected input.

    Args:
        params: of the GRU, in the compute dtype.
        x_projection: of the input, bias included: z, r and h, each `[..., u]`.
        state: `[..., u]`.
        config: the GRU.
        masks: `[n, ..., u]`, recurrent dropout masks, or None.
        precision: of the products.
        dot: computes the products.

    Returns:
        `(z, r, candidate before its activation)`, each `[..., u]`.
    """
    if config.reset_after:
        _, bias = split_bias(params, config)
        projection = project(state, params["recurrent_kernel"], bias, masks, precision, dot)
        return opened_after(x_projection, split_gates(projection), config)
    gate_kernel, candidate_kernel = split_recurrent_kernel(params)
    gate_masks, candidate_mask = split_masks(masks)
    projection = project(state, gate_kernel, None, gate_masks, precision, dot)
    update, reset = update_and_reset(x_projection, split_gates(projection, 2), config)
    recurrent = project(reset * state, candidate_kernel, None, candidate_mask, precision, dot)
    return update, reset, x_projection[2] + recurrent


def advance(
    params: Params,
    x_projection: Gates,
    state: jax.Array,
    config: GRUConfig,
    masks: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
    dot: Dot = jnp.dot,
) -> jax.Array:
    """Takes one step from a projected input.

    Args: those of `open_gates`.

    Returns:
        `[..., u]`, the state after the step.
    """
    update, _, candidate = open_gates(params, x_projection, state, config, masks, precision, dot)
    return blend(update, candidate, state, config)


def split_gates(projection: jax.Array, count: int = GATES) -> Gates:
    """Splits a projection `[..., count u]` into its gates, each `[..., u]`."""
    return tuple(jnp.split(projection, count, axis=-1))


def split_recurrent_kernel(params: Params) -> list[jax.Array]:
    """Splits the recurrent kernel into that of the gates [u, 2u] and of the candidate [u, u]."""
    kernel = params["recurrent_kernel"]
    return jnp.split(kernel, [2 * kernel.shape[0]], axis=-1)


def split_masks(masks: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns the recurrent dropout masks of the gates and of the candidate."""
    return (None, None) if masks is None else (masks[:2], masks[-1:])


def step(
    params: Params,
    state: jax.Array,
    x: jax.Array,
    config: GRUConfig,
    masks: DropoutMasks = DropoutMasks(),
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Takes one step from an input, everything checked and in the compute dtype.

    Args:
        params: of the GRU.
        state: `[..., u]`.
        x: `[..., f]`.
        config: the GRU.
        masks: dropout masks of the input and the state.
        precision: of the products.

    Returns:
        `[..., u]`, the state after the step.
    """
    bias, _ = split_bias(params, config)
    x_projection = project(x, params["kernel"], bias, masks.inputs, precision)
    return advance(params, split_gates(x_projection), state, config, masks.recurrent, precision)


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
    """Takes one step; made for `jax.lax.scan`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent;
            columns z | r | h.
        state: `[..., u]`; None is zeros.
        x: `[..., f]`, with the batch axes of `state`.
        rng: JAX random key for dropout, or None for inference. The masks depend on the key and the
            shapes only: the same key at every step gives the same masks at every step.
        config: the GRU.
        dropout_masks: masks to use instead of drawing them.
        zoneout_rng: JAX random key for zoneout, another one at every step; None is `rng`.
        dtype: to compute in; None promotes the dtypes of `params` and `x`.
        precision: of the products, as in `jax.numpy.dot`.

    Returns:
        `(state, output)`, both `[..., u]` in the compute dtype, and the same array.

    Raises:
        TypeError: `dtype` is not a floating dtype, or `x` holds token ids.
        ValueError: a shape does not fit; the message names the argument.

    Sources: Keras 3 and `tf.compat.v1.keras.layers.GRUCell`; arXiv:1406.1078.
    """
    features, units = check_params(params, config)
    dtype = compute_dtype(dtype, params, x)
    params = cast_params(params, dtype)
    check_inputs("x", x, features, "...", 1)
    check_key("rng", rng)
    check_key("zoneout_rng", zoneout_rng)
    x = jnp.asarray(x).astype(dtype)
    batch_shape = x.shape[:-1]
    state = check_state("state", state, batch_shape, units, dtype)
    masks = resolve_dropout_masks(dropout_masks, rng, batch_shape, features, units, config, dtype)
    params, masks = drop_weights(params, masks)
    zoneout_rng = rng if zoneout_rng is None else zoneout_rng
    moves, config = draw_zoneout(zoneout_rng, config, state.shape)
    new = step(params, state, x, config, masks, precision)
    new = new if moves is None else jnp.where(moves, new, state)
    return new, new
