"""Drawing, checking and splitting the parameters of a GRU."""

import inspect
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gruflax.functional.checks import at_least_float32, brief, check_key
from gruflax.functional.config import GRUConfig, check_config


Params = Mapping[str, jax.Array]
Initializer = Callable[..., jax.Array]

GATES = 3


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws a matrix with orthonormal rows or columns, in any floating dtype.

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", arXiv:1312.6120.
    """
    # LAPACK has no QR decomposition of 16-bit floats.
    wide = at_least_float32(dtype)
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


def params_shapes(features: int, units: int, config: GRUConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter: the gates' columns lie side by side, z | r | h."""
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
    """Draws the parameters of a GRU, the matrix of all gates at once as in Keras.

    Args:
        rng: JAX random key.
        features: size of an input step.
        units: size of the state.
        config: the options of the GRU; by default `GRUConfig()`, which has Keras 3's defaults.
        kernel_initializer: `f(key, shape, dtype)` of `kernel` [f, 3u]; Glorot uniform by default.
        recurrent_initializer: the same for `recurrent_kernel` [u, 3u]; orthogonal by default.
        bias_initializer: the same for `bias` [2, 3u] or [3u]; zeros by default.
        dtype: dtype of the parameters; float32 by default.

    Returns:
        A dict of `kernel` and `recurrent_kernel`; with `use_bias` also of `bias`, and with
        `learn_initial_state` also of `initial_state` [u], which is zeros.

    Raises:
        TypeError: `config` is no GRUConfig, `rng` is no key, or an initializer returns no array.
        ValueError: `features` is not an integer of at least 0, or `units` not one of at least 1.
    """
    check_config(config)
    check_key("rng", rng, optional=False)
    check_size("features", features, least=0)
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
        name: draw_param(name, initializers[name], key, shape, dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def draw_param(
    name: str, initializer: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    """Draws one parameter, or raises an error that names it if the initializer is unfit."""
    if not _takes_three(initializer):
        raise TypeError(
            f"the initializer of {name} must take (key, shape, dtype), as JAX's do, got "
            f"{brief(initializer)}."
        )
    # JAX's initializers divide by the number of rows, which may be 0.
    drawn = initializer(key, shape, dtype) if math.prod(shape) else jnp.zeros(shape, dtype)
    if callable(drawn) and not hasattr(drawn, "shape"):
        made = getattr(initializer, "__name__", type(initializer).__name__)
        raise TypeError(
            f"the initializer of {name} must return an array {shape}, got {brief(drawn)}: {made} "
            f"makes initializers, call it first: {made}()."
        )
    if hasattr(drawn, "shape") and drawn.shape != shape:
        raise ValueError(
            f"the initializer of {name} must return an array {shape}, got {brief(drawn)}."
        )
    return drawn


def _takes_three(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:
        # Functions written in C have no signature.
        return True
    return True


def check_size(name: str, size: int, least: int = 1) -> None:
    """Raises a ValueError unless `size` is an integer of at least `least`."""
    # bool is an int to Python, but never a size.
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < least:
        wanted = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {wanted}, got {brief(size)}.")


def check_params(params: Params, config: GRUConfig, units: int | None = None) -> tuple[int, int]:
    """Checks that `params` are those of a GRU with this `config`; returns `(features, units)`."""
    check_config(config)
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict of arrays, got {brief(params)}.")
    wanted = list(params_shapes(1, 1, config))
    if sorted(params) != sorted(wanted):
        raise ValueError(
            f"params must hold {wanted} for use_bias={config.use_bias}, "
            f"learn_initial_state={config.learn_initial_state}, got {sorted(params)}"
            f"{_origin(params)}."
        )
    shapes = {name: np.shape(params[name]) for name in wanted}
    sizes = (*shapes["kernel"][:1], *shapes["recurrent_kernel"][:1])
    if len(sizes) != 2 or shapes != params_shapes(*sizes, config):
        raise ValueError(
            "params must be kernel (f, 3u), recurrent_kernel (u, 3u) and bias "
            f"{'(2, 3u)' if config.reset_after else '(3u,)'} for "
            f"reset_after={config.reset_after}, got {shapes}."
        )
    if not sizes[1]:
        raise ValueError(f"params must be of one unit at least, got {shapes}.")
    if units not in (None, sizes[1]):
        raise ValueError(f"params must be of units={units}, got those of {sizes[1]} units.")
    return sizes[0], sizes[1]


# Names by which the parameters of modules and of other libraries are known, and what to do.
_ORIGINS = {
    "params": 'take variables["params"]',
    "cell": 'take params["cell"], or convert those of flax.linen: gruflax.convert reads them',
    "ir": "these are flax.linen.GRUCell's, which gruflax.convert reads",
    "dense_i": "these are flax.nnx.GRUCell's, which gruflax.convert reads",
    "w_i": "these are haiku.GRU's, which gruflax.convert reads",
    "weight_ih": "these are a GRUCell's of torch or equinox, which gruflax.convert reads",
    "weight_ih_l0": "these are torch.nn.GRU's, which gruflax.convert reads",
}


def _origin(params: Params) -> str:
    """Returns advice for an error if the parameters are recognized as those of something else."""
    return next((f": {remedy}" for name, remedy in _ORIGINS.items() if name in params), "")


def split_gates(projection: jax.Array, count: int = GATES) -> tuple[jax.Array, ...]:
    """Splits `[..., count u]` into its gates, each `[..., u]`."""
    return tuple(jnp.split(projection, count, axis=-1))


def split_bias(params: Params, config: GRUConfig) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns the bias of the input's and of the state's projection, each `[3u]` or None."""
    if not config.use_bias:
        return None, None
    return tuple(params["bias"]) if config.reset_after else (params["bias"], None)


def split_recurrent_kernel(params: Params) -> list[jax.Array]:
    """Splits the recurrent kernel into the part of z and r [u, 2u] and the candidate's [u, u]."""
    kernel = params["recurrent_kernel"]
    return jnp.split(kernel, [2 * kernel.shape[0]], axis=-1)


def cast_params(params: Params, dtype: DTypeLike) -> dict[str, jax.Array]:
    """Returns the parameters as arrays of the compute dtype."""
    return {name: jnp.asarray(value).astype(dtype) for name, value in params.items()}
