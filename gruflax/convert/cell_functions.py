"""Converters of single cells: from_X and to_X for each library that `cells.py` describes."""

from collections.abc import Mapping

import numpy as np

from gruflax.convert.cells import read_cell, write_cell
from gruflax.convert.weights import Nested, Params, errors_as_value_errors, pick
from gruflax.linen import GRU, GRUCell


def from_flax_linen(params: Nested) -> Params:
    """Converts the parameters of a `flax.linen.GRUCell`; exact, bit by bit.

    The recurrent bias of the update and the reset gate, which Flax does not have, is zeros.

    For example::

        params = from_flax_linen(rnn.init(key, x)["params"])
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        params: `{"ir": {"kernel": [f, u], "bias": [u]}, "hr": ..., ...}`; these may lie under the
            key "cell", as in `flax.linen.RNN`, or "params".

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u].

    Raises:
        ValueError: the arrays are not those of a GRUCell.
    """
    return read_cell("flax.linen", params)


def to_flax_linen(
    source: GRU | GRUCell | Nested, variables: Nested | None = None
) -> dict[str, Params]:
    """Converts to the parameters of a `flax.linen.GRUCell`: `{"ir": {"kernel", "bias"}, ...}`.

    The result computes the same function. Flax has one bias for the update gate and one for the
    reset gate, where gruflax has two, so these are added up and cannot be separated again. A GRU
    without a bias gets a bias of zeros.

    For example::

        cell = flax.linen.GRUCell(64)
        state, output = cell.apply({"params": to_flax_linen(gru, variables)}, state, x)

    Args:
        source: bare params, or a `gruflax.GRU` or `GRUCell`.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        The params as NumPy arrays, as `from_flax_linen` takes them.

    Raises:
        TypeError: `source` or `variables` is of another type.
        ValueError: the GRU has `reset_after=False`, or activations other than tanh and sigmoid.
    """
    return write_cell("flax.linen", source, variables)


def from_flax_nnx(cell: object) -> Params:
    """Converts the parameters of a `flax.nnx.GRUCell`; exact, bit by bit.

    The recurrent bias, which NNX's cell does not have, is zeros.

    For example::

        params = from_flax_nnx(nnx.GRUCell(12, 64, rngs=nnx.Rngs(0)))
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        cell: the live cell, or its state or a dict: `{"dense_i": {"kernel": [f, 3u], "bias":
            [3u]}, "dense_h": {"kernel": [u, 3u]}}`.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u].

    Raises:
        ValueError: the arrays are not those of a GRUCell.
    """
    return read_cell("flax.nnx", cell)


def to_flax_nnx(
    source: GRU | GRUCell | Nested, variables: Nested | None = None
) -> dict[str, Params]:
    """Converts to the parameters of a `flax.nnx.GRUCell`: `{"dense_i": ..., "dense_h": ...}`.

    The result computes the same function. NNX's cell has no recurrent bias, so the two biases of
    the update and the reset gate are added up, as in `to_flax_linen`.

    For example::

        cell = nnx.GRUCell(12, 64, rngs=nnx.Rngs(0))
        nnx.update(cell, to_flax_nnx(gru, variables))

    Args:
        source: bare params, or a `gruflax.GRU` or `GRUCell`.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        The params as NumPy arrays, as `from_flax_nnx` takes them.

    Raises:
        TypeError: `source` or `variables` is of another type.
        ValueError: the GRU has `reset_after=False`, activations other than tanh and sigmoid, or a
            recurrent bias of the candidate that is not zeros.
    """
    return write_cell("flax.nnx", source, variables)


def from_equinox(cell: object) -> Params:
    """Converts the parameters of an `equinox.nn.GRUCell`; exact, bit by bit.

    The recurrent bias of the update and the reset gate, which Equinox does not have, is zeros.

    For example::

        params = from_equinox(eqx.nn.GRUCell(12, 64, key=key))
        outputs, state = gruflax.gru_sequence(params, x)

    Args:
        cell: the live cell, or a dict of its arrays: `weight_ih` [3u, f], `weight_hh` [3u, u],
            `bias` [3u] or None, `bias_n` [u] or None.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [2, 3u] or absent.

    Raises:
        ValueError: `cell` is not a GRUCell.
    """
    return read_cell("equinox", cell)


def to_equinox(
    source: GRU | GRUCell | Nested, variables: Nested | None = None
) -> dict[str, np.ndarray | None]:
    """Converts to the parameters of an `equinox.nn.GRUCell`.

    The result computes the same function: the two biases of the update and the reset gate are added
    up, as in `to_flax_linen`::

        arrays = to_equinox(gru, variables)
        cell = eqx.nn.GRUCell(12, 64, key=key)
        cell = eqx.tree_at(
            lambda cell: [getattr(cell, name) for name in arrays], cell, list(arrays.values())
        )

    Args:
        source: bare params, or a `gruflax.GRU` or `GRUCell`.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        The arrays as `from_equinox` takes them; `bias` and `bias_n` are None without a bias.

    Raises:
        TypeError: `source` or `variables` is of another type.
        ValueError: the GRU has `reset_after=False`, or activations other than tanh and sigmoid.
    """
    return write_cell("equinox", source, variables)


def from_haiku(params: Nested, name: str | None = None) -> Params:
    """Converts the parameters of a `haiku.GRU`; exact, bit by bit.

    Haiku's GRU resets before the product, so the parameters are those of `reset_after=False`::

        params = from_haiku(transformed.init(key, x), "my_model/gru")
        outputs, state = gruflax.gru_sequence(
            params, x, config=gruflax.GRUConfig(reset_after=False)
        )

    Args:
        params: `{"w_i": [f, 3u], "w_h": [u, 3u], "b": [3u]}`, or the params of a model, which are
            dicts of that kind by the names of modules.
        name: the name of the module; None, the default, if the model has only one GRU.

    Returns:
        `kernel` [f, 3u], `recurrent_kernel` [u, 3u], `bias` [3u].

    Raises:
        ValueError: `params` holds no GRU of that name, or several GRUs and no name is given.
    """
    names = {"w_i", "w_h", "b"}
    with errors_as_value_errors("params must be those of a haiku.GRU"):
        if names <= set(params):
            return read_cell("haiku", params)
        modules = {key: each for key, each in params.items() if isinstance(each, Mapping)}
        grus = {key: each for key, each in modules.items() if names <= set(each)}
        chosen = pick(grus if name is None else modules, name, "the haiku.GRU modules")
    return read_cell("haiku", chosen)


def to_haiku(source: GRU | GRUCell | Nested, variables: Nested | None = None) -> Params:
    """Converts to the parameters of a `haiku.GRU`; exact, bit by bit.

    A GRU without a bias gets a bias of zeros.

    For example::

        params = {"gru": to_haiku(gruflax.GRU(64, reset_after=False), variables)}
        outputs, state = transformed.apply(params, key, x)

    Args:
        source: bare params, or a `gruflax.GRU` or `GRUCell`.
        variables: the variables of the module; None, the default, if `source` is bare params.

    Returns:
        A dict of NumPy arrays, `w_i` [f, 3u], `w_h` [u, 3u] and `b` [3u].

    Raises:
        TypeError: `source` or `variables` is of another type.
        ValueError: the GRU has `reset_after=True`, or activations other than tanh and sigmoid.
    """
    return write_cell("haiku", source, variables)
