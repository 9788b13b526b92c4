"""Equinox' cell: `equinox.nn.GRUCell`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruflax.convert.gates import (
    ORDER,
    Params,
    cell_weights,
    make_params,
    merged_bias,
    reorder,
    take,
    whole,
)


_EQUINOX = "rzh"

_NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(cell: Any) -> Params:
    """Converts the parameters of an `equinox.nn.GRUCell`; exact, bit by bit.

    The recurrent bias of the update and the reset gate, which Equinox does not have, is zeros.

        params = from_equinox(eqx.nn.GRUCell(12, 64, key=key))
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        cell: the live cell, or a dict of its arrays: `weight_ih` [3u, f], `weight_hh` [3u, u],
            `bias` [3u] or None, `bias_n` [u] or None.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u] or absent.

    Raises:
        ValueError: this is no GRUCell.
    """
    if not isinstance(cell, Mapping):
        cell = {name: getattr(cell, name) for name in _NAMES if hasattr(cell, name)}
    with whole("cell must be an equinox.nn.GRUCell, or a dict of its arrays"):
        kernel, recurrent, bias, candidate = take(cell, _NAMES, "an equinox.nn.GRUCell")
        kernel, recurrent = (
            reorder(np.asarray(value).T, _EQUINOX, ORDER) for value in (kernel, recurrent)
        )
        if bias is None:
            return make_params(kernel, recurrent)
        bias = reorder(np.asarray(bias), _EQUINOX, ORDER)
        recurrent_bias = np.zeros_like(bias)
        recurrent_bias[-np.size(candidate) :] = np.asarray(candidate)
        return make_params(kernel, recurrent, np.stack([bias, recurrent_bias]))


def to_equinox(
    source: Any, variables: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray | None]:
    """Converts to the parameters of an `equinox.nn.GRUCell`, without a bias to None.

    Exact in function: the two biases of the update and the reset gate are added up, as in
    `to_linen`, whose arguments it has.

        arrays = to_equinox(gru, variables)
        cell = eqx.nn.GRUCell(12, 64, key=key)
        cell = eqx.tree_at(
            lambda cell: [getattr(cell, name) for name in arrays], cell, list(arrays.values())
        )

    Raises:
        ValueError: the GRU has `reset_after=False`, or activations other than tanh and sigmoid.
    """
    weights = cell_weights(source, variables, "equinox", reset_after=True)
    arrays: dict[str, np.ndarray | None] = {
        "weight_ih": reorder(weights.params["kernel"], ORDER, _EQUINOX).T.copy(),
        "weight_hh": reorder(weights.params["recurrent_kernel"], ORDER, _EQUINOX).T.copy(),
        "bias": None,
        "bias_n": None,
    }
    if weights.config.use_bias:
        merged, arrays["bias_n"] = merged_bias(weights.biases())
        arrays["bias"] = reorder(merged, ORDER, _EQUINOX)
    return arrays
