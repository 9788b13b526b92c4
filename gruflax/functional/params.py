"""The parameters of a GRU: how they start, and whether they fit."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gruflax.functional.checks import at_least_float32
from gruflax.functional.config import GRUConfig


Params = Mapping[str, jax.Array]
Initializer = Callable[..., jax.Array]

GATES = 3


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws a matrix with orthonormal rows or columns, in any floating dtype.

    Args:
        key: JAX random key.
        shape: `(rows, columns)`; the smaller side is the orthonormal one.
        dtype: of the result.

    Returns:
        `[rows, columns]`.

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", arXiv:1312.6120.
    """
    # LAPACK's QR knows no 16-bit floats.
    wide = at_least_float32(dtype)
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


def params_shapes(features: int, units: int, config: GRUConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter: the gates' columns lie side by side, z | r | h.

    Args:
        features: size of an input step.
        units: size of the state.
        config: the GRU.

    Returns:
        `kernel` (f, 3u), `recurrent_kernel` (u, 3u) and, with `use_bias`, `bias`: (2, 3u) holds an
        input and a recurrent row where `reset_after`, else (3u,); with `learn_initial_state`,
        `initial_state` (u,).
    """
    columns = GATES * units
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (features, columns),
        "recurrent_kernel": (units, columns),
    }
    if config.use_bias:
        shapes["bias"] = (2, columns) if config.reset_after else (columns,)
    if config.learn_initial_state:
        shapes["initial_state"] = (units,)
    return shapes


def init_gru_params(
    rng: jax.Array,
    features: int,
    units: int,
    config: GRUConfig = GRUConfig(),
    *,
    kernel_initializer: Initializer = jax.nn.initializers.glorot_uniform(),
    recurrent_initializer: Initializer = orthogonal,
    bias_initializer: Initializer = jax.nn.initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, jax.Array]:
    """Draws the parameters of a GRU, each fused matrix as a whole, as Keras does.

    Args:
        rng: JAX random key.
        features: size of an input step.
        units: size of the state.
        config: the GRU.
        kernel_initializer: `f(key, shape, dtype)`, of `kernel` [f, 3u].
        recurrent_initializer: of `recurrent_kernel` [u, 3u].
        bias_initializer: of `bias` [2, 3u] or [3u].
        dtype: of the parameters.

    Returns:
        A dict of `kernel`, `recurrent_kernel` and, with `use_bias`, `bias`; with
        `learn_initial_state`, `initial_state` [u], zeros.

    Raises:
        ValueError: `features` or `units` is not a positive integer.
    """
    check_size("features", features)
    check_size("units", units)
    initializers = {
        "kernel": kernel_initializer,
        "recurrent_kernel": recurrent_initializer,
        "bias": bias_initializer,
        "initial_state": jax.nn.initializers.zeros,
    }
    shapes = params_shapes(features, units, config)
    keys = jax.random.split(rng, len(shapes))
    return {
        name: initializers[name](key, shape, dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def check_size(name: str, size: int) -> None:
    """Raises a ValueError unless `size` is a positive integer."""
    # bool is an int to Python, but never a size.
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise ValueError(f"{name} must be a positive integer, got {size!r}.")


def check_params(params: Params, config: GRUConfig) -> tuple[int, int]:
    """Checks that `params` are those of a GRU with this `config`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u] or [3u] or absent.
        config: the GRU.

    Returns:
        `(features, units)`.

    Raises:
        ValueError: a parameter is missing, is one too many, or has another shape.
    """
    wanted = list(params_shapes(1, 1, config))
    if sorted(params) != sorted(wanted):
        raise ValueError(
            f"params must hold {wanted} for use_bias={config.use_bias}, "
            f"learn_initial_state={config.learn_initial_state}, got {sorted(params)}."
        )
    shapes = {name: np.shape(params[name]) for name in wanted}
    sizes = (*shapes["kernel"][:1], *shapes["recurrent_kernel"][:1])
    if len(sizes) != 2 or shapes != params_shapes(*sizes, config):
        raise ValueError(
            "params must be kernel (f, 3u), recurrent_kernel (u, 3u) and bias "
            f"{'(2, 3u)' if config.reset_after else '(3u,)'} for "
            f"reset_after={config.reset_after}, got {shapes}."
        )
    return sizes[0], sizes[1]


def cast_params(params: Params, dtype: DTypeLike) -> dict[str, jax.Array]:
    """Returns the parameters as arrays of the compute dtype."""
    return {name: jnp.asarray(value).astype(dtype) for name, value in params.items()}
