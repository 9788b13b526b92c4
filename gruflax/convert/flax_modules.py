"""The cells of Flax: `flax.linen.GRUCell` and `flax.nnx.GRUCell`."""

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


# Flax calls the candidate n: the order of `flax.nnx.GRUCell`'s columns.
_NNX = "rzh"

_GATES = ("z", "r", "n")


def from_linen(params: Mapping[str, Any]) -> Params:
    """Converts the parameters of a `flax.linen.GRUCell`; exact, bit by bit.

    The recurrent bias of the update and the reset gate, which Flax does not have, is zeros.

        params = from_linen(rnn.init(key, x)["params"])
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        params: `{"ir": {"kernel": [f, u], "bias": [u]}, "hr": ..., ...}`; also one level up,
            under "cell", as `flax.linen.RNN` has them, or under "params".

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u].

    Raises:
        ValueError: these are no parameters of a GRUCell.
    """
    what = "params of a flax.linen.GRUCell"
    with whole(f"params must be {what}"):
        for level in ("params", "cell"):
            params = params.get(level, params)
        inputs = take(params, [f"i{gate}" for gate in _GATES], what)
        states = take(params, [f"h{gate}" for gate in _GATES], what)
        bias = np.concatenate([np.asarray(dense["bias"]) for dense in inputs])
        recurrent_bias = np.zeros_like(bias)
        candidate = np.asarray(states[-1]["bias"])
        recurrent_bias[-candidate.size :] = candidate
        return make_params(
            np.concatenate([np.asarray(dense["kernel"]) for dense in inputs], -1),
            np.concatenate([np.asarray(dense["kernel"]) for dense in states], -1),
            np.stack([bias, recurrent_bias]),
        )


def to_linen(source: Any, variables: Mapping[str, Any] | None = None) -> dict[str, Params]:
    """Converts to the parameters of a `flax.linen.GRUCell`: `{"ir": {"kernel", "bias"}, ...}`.

    Exact in function. The two biases of the update and the reset gate are added up, since Flax has
    one: they cannot be told apart again. No bias is a bias of zeros.

        cell = flax.linen.GRUCell(64)
        state, output = cell.apply({"params": to_linen(gru, variables)}, state, x)

    Args:
        source: bare params, or a `gruflax.GRU` or `GRUCell`.
        variables: of the module; None where `source` is params.

    Raises:
        ValueError: the GRU has `reset_after=False`, or activations other than Flax's.
    """
    weights = cell_weights(source, variables, "flax.linen", reset_after=True)
    merged, candidate = merged_bias(weights.biases())
    columns = lambda array: dict(zip(_GATES, np.split(array, 3, -1), strict=True))  # noqa: E731
    kernel, recurrent = (columns(weights.params[n]) for n in ("kernel", "recurrent_kernel"))
    bias = columns(merged)
    cell = {f"i{gate}": {"kernel": kernel[gate], "bias": bias[gate]} for gate in _GATES}
    cell |= {f"h{gate}": {"kernel": recurrent[gate]} for gate in _GATES}
    cell["hn"]["bias"] = candidate
    return cell


def from_nnx(cell: Any) -> Params:
    """Converts the parameters of a `flax.nnx.GRUCell`; exact, bit by bit.

    NNX's cell has no recurrent bias: that row is zeros.

        params = from_nnx(nnx.GRUCell(12, 64, rngs=nnx.Rngs(0)))
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        cell: the live cell, or its state or a dict: `{"dense_i": {"kernel": [f, 3u], "bias":
            [3u]}, "dense_h": {"kernel": [u, 3u]}}`.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u].

    Raises:
        ValueError: these are no parameters of a GRUCell.
    """
    with whole("cell must be a flax.nnx.GRUCell, or its state"):
        inputs, states = (_member(cell, name) for name in ("dense_i", "dense_h"))
        kernel, bias = (np.asarray(_member(inputs, name)[...]) for name in ("kernel", "bias"))
        recurrent = np.asarray(_member(states, "kernel")[...])
        bias = reorder(bias, _NNX, ORDER)
        return make_params(
            reorder(kernel, _NNX, ORDER),
            reorder(recurrent, _NNX, ORDER),
            np.stack([bias, np.zeros_like(bias)]),
        )


def to_nnx(source: Any, variables: Mapping[str, Any] | None = None) -> dict[str, Params]:
    """Converts to the parameters of a `flax.nnx.GRUCell`: `{"dense_i": ..., "dense_h": ...}`.

    As `to_linen`; NNX's cell has no recurrent bias at all.

        cell = nnx.GRUCell(12, 64, rngs=nnx.Rngs(0))
        nnx.update(cell, to_nnx(gru, variables))

    Raises:
        ValueError: as there, or the candidate has a recurrent bias.
    """
    weights = cell_weights(source, variables, "flax.nnx", reset_after=True)
    merged, candidate = merged_bias(weights.biases())
    if candidate.any():
        raise ValueError(
            "flax.nnx.GRUCell has no recurrent bias: bias[1, 2u:] must be zeros to be converted, "
            f"got values up to {np.abs(candidate).max()}. flax.linen.GRUCell has one."
        )
    kernel, recurrent = (weights.params[name] for name in ("kernel", "recurrent_kernel"))
    return {
        "dense_i": {
            "kernel": reorder(kernel, ORDER, _NNX),
            "bias": reorder(merged, ORDER, _NNX),
        },
        "dense_h": {"kernel": reorder(recurrent, ORDER, _NNX)},
    }


def _member(owner: Any, name: str) -> Any:
    """A member of a live module, or of a mapping like it."""
    holds = name in owner if isinstance(owner, Mapping) else hasattr(owner, name)
    if not holds:
        raise ValueError(
            "cell must be a flax.nnx.GRUCell, or its state: no "
            f"{name!r} in what was given, {type(owner).__name__}."
        )
    return owner[name] if isinstance(owner, Mapping) else getattr(owner, name)
