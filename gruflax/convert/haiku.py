"""Haiku's core: `haiku.GRU`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruflax.convert.gates import Params, cell_weights, make_params, pick, take, whole


_NAMES = ("w_i", "w_h", "b")


def from_haiku(params: Mapping[str, Any], name: str | None = None) -> Params:
    """Converts the parameters of a `haiku.GRU`; exact, bit by bit.

    They belong to `reset_after=False`.

        params = from_haiku(transformed.init(key, x), "my_model/gru")
        outputs, state = gruflax.gru_sequence(
            params, x, config=gruflax.GRUConfig(reset_after=False)
        )

    Args:
        params: `{"w_i": [f, 3u], "w_h": [u, 3u], "b": [3u]}`, or a model's, by module name.
        name: of the module, where there are several GRUs.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [3u].

    Raises:
        ValueError: there is no such GRU in `params`, or there are several and no name.
    """
    with whole("params must be those of a haiku.GRU"):
        if not set(_NAMES) <= set(params):
            modules = {key: each for key, each in params.items() if isinstance(each, Mapping)}
            grus = {key: each for key, each in modules.items() if set(_NAMES) <= set(each)}
            params = pick(grus if name is None else modules, name, "the haiku.GRU modules")
        return make_params(*map(_flipped, take(params, _NAMES, "params of a haiku.GRU")))


def to_haiku(source: Any, variables: Mapping[str, Any] | None = None) -> Params:
    """Converts to the parameters of a `haiku.GRU`; exact, bit by bit; no bias is a bias of zeros.

        params = {"gru": to_haiku(gruflax.GRU(64, reset_after=False), variables)}
        outputs, state = transformed.apply(params, key, x)

    The arguments are those of `to_linen`.

    Raises:
        ValueError: the GRU has `reset_after=True`, or activations other than tanh and sigmoid.
    """
    weights = cell_weights(source, variables, "haiku", reset_after=False)
    arrays = (weights.params["kernel"], weights.params["recurrent_kernel"], weights.biases())
    return dict(zip(_NAMES, map(_flipped, arrays), strict=True))


def _flipped(array: Any) -> np.ndarray:
    """Changes the sign of the update gate: Haiku's 1 is a new state, gruflax's 1 the old one."""
    flipped = np.array(array)
    units = flipped.shape[-1] // 3
    flipped[..., :units] *= -1
    return flipped
