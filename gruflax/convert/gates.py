"""What all conversions share: the order of the gates, and parameters in and out of layers."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gruflax.functional.checks import brief
from gruflax.functional.config import GRUConfig
from gruflax.functional.params import check_params, params_shapes
from gruflax.keras_names import activations
from gruflax.layers.fields import AXES, config_of
from gruflax.layers.fields import GRULike


# The order of the gates' columns in gruflax and Keras: update, reset, candidate.
ORDER = "zrh"

# Any stands for NumPy arrays: JAX functions take them, and their types do not say so.
Params = dict[str, Any]


class Weights(NamedTuple):
    """The parameters of one direction of one layer, and what they are for.

    Attributes:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u], [3u] or absent.
        config: the GRU that they belong to.
    """

    params: Params
    config: GRUConfig

    @property
    def units(self) -> int:
        """Returns the size of the state."""
        return self.params["recurrent_kernel"].shape[0]

    @property
    def features(self) -> int:
        """Returns the size of an input step."""
        return self.params["kernel"].shape[0]

    def biases(self) -> np.ndarray:
        """Returns the bias in the shape that the config asks for, zeros where there is none."""
        config = GRUConfig(reset_after=self.config.reset_after)
        shape = params_shapes(self.features, self.units, config)["bias"]
        return self.params.get("bias", np.zeros(shape, self.params["kernel"].dtype))


def reorder(array: np.ndarray, source: str, target: str, axis: int = -1) -> np.ndarray:
    """Changes the order of the gates along an axis."""
    blocks = dict(zip(source, np.split(array, 3, axis), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis)


@contextlib.contextmanager
def whole(what: str) -> Iterator[None]:
    """Turns whatever damaged or hostile input raises meanwhile into a ValueError."""
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:
        # Which exceptions a file raises is up to HDF5, zip, protobuf and what they hold.
        raise ValueError(f"{what}: {error}") from error


def read_json(what: str, text: str | bytes) -> Any:
    """Reads JSON, or raises a ValueError that names it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON: {error}") from error


def make_params(kernel: Any, recurrent_kernel: Any, bias: Any = None) -> Params:
    """Makes a GRU's parameters, or says what does not fit."""
    params = {"kernel": kernel, "recurrent_kernel": recurrent_kernel}
    if bias is not None:
        params["bias"] = bias
    arrays: Params = {name: np.array(value, order="C") for name, value in params.items()}
    _check_floats(arrays)
    check_params(arrays, config_for(arrays))
    return arrays


def _check_floats(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be an array of floats, got {brief(array)}.")


def config_for(params: Mapping[str, Any]) -> GRUConfig:
    """Returns the default GRU that fits parameters: their bias says which one."""
    bias = params.get("bias")
    return GRUConfig(use_bias=bias is not None, reset_after=bias is None or np.ndim(bias) == 2)


def weights_of(module: nn.Module | None, variables: Mapping[str, Any]) -> Weights:
    """Reads the weights of one GRU."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict of arrays, got {brief(variables)}.")
    if module is not None and not hasattr(module, "recurrent_activation"):
        raise TypeError(f"module must be a gruflax.GRU or GRUCell, got {brief(module)}.")
    given = nn.unbox(variables.get("params", variables))
    params: Params = {name: np.asarray(value) for name, value in given.items()}
    _check_floats({name: array for name, array in params.items() if name in AXES})
    config = config_for(params) if module is None else config_of(cast(GRULike, module))
    check_params(params, config, None if module is None else module.units)
    if config.zoneout or config.learn_initial_state:
        raise ValueError(
            "only a GRU with zoneout=0 and learn_initial_state=False can be converted, got "
            f"zoneout={config.zoneout}, learn_initial_state={config.learn_initial_state}."
        )
    return Weights(params, config)


def cell_weights(
    source: Any, variables: Mapping[str, Any] | None, target: str, *, reset_after: bool
) -> Weights:
    """Reads the weights of one GRU for a library whose cell knows one convention."""
    weights = weights_of(None, source) if variables is None else weights_of(source, variables)
    need(weights, target, reset_after=reset_after)
    return weights


def need(weights: Weights, target: str, *, reset_after: bool) -> None:
    """Raises a ValueError unless a library that has one kind of GRU has this one."""
    # Without a bias and without a module, nothing says otherwise.
    if weights.config.reset_after != reset_after:
        raise ValueError(
            f"{target} has no GRU with reset_after={weights.config.reset_after}: "
            f"only reset_after={reset_after} can be converted."
        )
    for field, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        given = getattr(weights.config, field)
        if activations.serialize(given) != wanted:
            raise ValueError(
                f"{target} has no GRU with {field}={activations.serialize(given)!r}: "
                f"only {wanted!r}."
            )


def merged_bias(bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds up what libraries with one bias a gate cannot tell apart."""
    units = bias.shape[-1] // 3
    merged = bias[0].copy()
    merged[: 2 * units] += bias[1, : 2 * units]
    return merged, bias[1, 2 * units :].copy()


def pick(found: Mapping[str, Any], name: str | None, what: str) -> Any:
    """Chooses by name, or the only one there is."""
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        raise ValueError(f"name must be one of {what}: {sorted(found)}, got {name!r}.")
    return found[name]


def take(arrays: Mapping[str, Any], names: Sequence[str], what: str) -> list[Any]:
    """Takes entries out of a mapping."""
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{what} must hold {list(names)}, got {sorted(arrays)}.")
    return [arrays[name] for name in names]
