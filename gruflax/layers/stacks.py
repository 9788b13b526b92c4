"""Layers and cells on top of each other: what the stacks of linen and of NNX share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.layers.calls import other_system
from gruflax.layers.protocols import Returning, State


def check_stack(layers: Any, kinds: tuple[type, ...], names: str) -> None:
    """Raises an error unless `layers`, of some `kinds` with these `names`, can be a stack."""
    if not isinstance(layers, (tuple, list)) or not layers:
        raise TypeError(
            "layers must be a list of one layer or more, as in Stack([GRU(8), GRU(4)]), got "
            f"{brief(layers)}."
        )
    for index, layer in enumerate(layers):
        if not isinstance(layer, kinds):
            remedy = other_system(layer, kinds[0])
            raise TypeError(f"layers[{index}] must be a {names}, got {brief(layer)}{remedy}.")
        for name in ("return_state", "time_major"):
            if getattr(layer, name) != getattr(layers[0], name):
                raise ValueError(
                    f"layers must agree on {name}, got {getattr(layers[0], name)} for layers[0] "
                    f"and {getattr(layer, name)} for layers[{index}]."
                )
    for index, layer in enumerate(layers[:-1]):
        if not layer.return_sequences or getattr(layer, "merge_mode", "") is None:
            raise ValueError(
                f"layers[{index}] must return one sequence to the layer above: "
                "return_sequences=True, and a merge_mode that is not None."
            )


def run_stack(
    layers: tuple[Returning, ...],
    run: Callable[[int, Any, Any], Any],
    drop: Callable[[int, Any], Any],
    inputs: ArrayLike,
    initial_state: State,
    marks: tuple[Any, ...],
) -> Any:
    """Runs layers one after the other: the last outputs, and with `return_state` all states.

    `run(index, inputs, initial_state)` runs a layer, `drop(index, outputs)` drops what it is given;
    `marks` are mask, lengths and resets.
    """
    if any(mark is not None for mark in marks) and any(each.go_backwards for each in layers[:-1]):
        raise ValueError(
            "mask, seq_lengths and reset must be None where a layer but the last has "
            "go_backwards=True: its outputs come with the last step first."
        )
    states, outputs = [], jnp.asarray(inputs)
    for index, state in enumerate(one_each("initial_state", initial_state, len(layers))):
        outputs = run(index, drop(index, outputs) if index else outputs, state)
        outputs, new = _split_result(layers[index], outputs)
        states.append(new)
    return (outputs, tuple(states)) if layers[-1].return_state else outputs


def one_each(name: str, states: State, count: int) -> tuple | list:
    """Returns states as one entry for each layer, None for those that are not given."""
    if states is None:
        return (None,) * count
    if not isinstance(states, (tuple, list)) or len(states) != count:
        got = len(states) if isinstance(states, (tuple, list)) else brief(states)
        torch = ""
        if np.ndim(states) == 3 and not isinstance(states, (tuple, list)):
            torch = (
                ": of torch's h_0 give list(h_0), or for layers in both directions "
                "list(zip(h_0[::2], h_0[1::2]))"
            )
        raise ValueError(
            f"{name} must be a tuple or list of one entry for each of {count} layers, "
            f"got {got}{torch}."
        )
    return states


def _split_result(layer: Returning, result: Any) -> tuple[Any, tuple]:
    """Splits what a layer returned into `(outputs, states)`."""
    if not layer.return_state:
        return result, ()
    if getattr(layer, "merge_mode", "") is None:
        return result[:2], result[2:]
    return result[0], result[1:]


def check_cells(cells: Any, check: Callable[[str, Any], None]) -> None:
    """Raises a TypeError unless `cells`, each as `check(name, cell)` wants it, can be stacked."""
    if not isinstance(cells, (tuple, list)) or not cells:
        raise TypeError(f"cells must be a list of one cell or more, got {brief(cells)}.")
    for index, cell in enumerate(cells):
        check(f"cells[{index}]", cell)


def step_cells(
    steps: Sequence[Callable[[Any, Any], tuple[Any, Any]]], name: str, states: State, inputs: Any
) -> tuple[Any, Any]:
    """Steps each cell, the lowest first: the new states, nested as they were, and the output."""
    if not isinstance(states, (tuple, list)) or len(states) != len(steps):
        got = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(f"{name} must be a tuple or list of {len(steps)} states, got {got}.")
    new, output = [], jnp.asarray(inputs)
    for step, state in zip(steps, states, strict=True):
        state, output = step(state, output)
        new.append(state)
    return (new if isinstance(states, list) else tuple(new)), output


def steps_as(cell: Any, cls: type) -> bool:
    """Returns whether a cell steps as a class does: a subclass may have a step of its own."""
    return isinstance(cell, cls) and type(cell).__call__ is cls.__call__
