"""Runs stacks of layers and stacks of cells, for linen and for NNX."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.layers.cell_loop import Output, Step, time_axis
from gruflax.layers.directions import Pair
from gruflax.layers.fields import LayerLike, check_kind, is_random
from gruflax.layers.nesting import State, fitted_states


# A function that runs a cell over a sequence: `(inputs, **options) -> (outputs, state)`.
CellSequence = Callable[..., tuple[Output, State]]


def check_stack(layers: object, kinds: tuple[type, ...], names: str, system: type) -> None:
    """Raises an error unless `layers` is a list of layers of some `kinds` that can be a stack."""
    if not isinstance(layers, (tuple, list)) or not layers:
        raise TypeError(
            "layers must be a list of one layer or more, as in Stack([GRU(8), GRU(4)]), got "
            f"{brief(layers)}."
        )
    for index, layer in enumerate(layers):
        check_kind(f"layers[{index}]", layer, isinstance(layer, kinds), f"a {names}", system)
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
    layers: Sequence[LayerLike | Pair],
    run: Callable[[int, Output, State], Output],
    drop: Callable[[int, Output], Output],
    inputs: ArrayLike,
    initial_state: State,
    marks: tuple[ArrayLike | None, ...],
) -> Output:
    """Runs layers one after the other: the last outputs, and with `return_state` all states.

    `run(index, inputs, initial_state)` runs a layer. `drop(index, outputs)` applies dropout to the
    inputs of a layer but the first. `marks` are the mask, the lengths and the resets.
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


def _split_result(layer: LayerLike | Pair, result: Output) -> tuple[Output, tuple]:
    """Splits what a layer returned into `(outputs, states)`."""
    if not layer.return_state:
        return result, ()
    if getattr(layer, "merge_mode", "") is None:
        return result[:2], result[2:]
    return result[0], result[1:]


def check_cells(cells: object, check: Callable[[str, object], None]) -> None:
    """Raises a TypeError unless `cells` is a list of cells that each pass `check(name, cell)`."""
    if not isinstance(cells, (tuple, list)) or not cells:
        raise TypeError(f"cells must be a list of one cell or more, got {brief(cells)}.")
    for index, cell in enumerate(cells):
        check(f"cells[{index}]", cell)


def step_cells(
    steps: Sequence[Step], name: str, states: State, inputs: ArrayLike
) -> tuple[State, Output]:
    """Takes one step of each cell, the lowest first: `(states, output)`, states nested alike."""
    if not isinstance(states, (tuple, list)) or len(states) != len(steps):
        got = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(f"{name} must be a tuple or list of {len(steps)} states, got {got}.")
    new, output = [], jnp.asarray(inputs)
    for step, state in zip(steps, states, strict=True):
        state, output = step(state, output)
        new.append(state)
    return (new if isinstance(states, list) else tuple(new)), output


def steps_as(cell: object, cls: type) -> bool:
    """Returns whether a cell is of a class and has not overridden the step of that class."""
    return isinstance(cell, cls) and type(cell).__call__ is cls.__call__


def taken_options(cell: object, **options: Any) -> dict[str, Any]:
    """Returns those of some options that can be passed to the call of a cell.

    A call with `**kwargs` gets the others too if they are set. Raises a TypeError where a GRU cell
    with dropout cannot be given an option that is set.
    """
    taken = inspect.signature(type(cell).__call__).parameters
    by_name = {name: value for name, value in options.items() if name in taken}
    others = {
        name: value
        for name, value in options.items()
        if name not in taken and value is not None and value is not False
    }
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return by_name | others
    if others and hasattr(cell, "recurrent_dropout") and is_random(cell):
        raise TypeError(
            f"the call of {type(cell).__name__} must take {sorted(others)} to hand it to the step."
        )
    return by_name


def run_stacked_cells(
    sequences: Sequence[CellSequence],
    own: tuple,
    inputs: ArrayLike,
    num_feature_axes: int,
    *,
    initial_state: State = None,
    reset_state: State = None,
    go_backwards: bool = False,
    time_major: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    **options: Any,
) -> tuple[Output, tuple]:
    """Runs cells over a sequence, one after the other; `own` are their own initial states."""
    initial, fresh = (
        [None] * len(sequences) if given is None else fitted_states(name, given, own)
        for name, given in (("initial_state", initial_state), ("reset_state", reset_state))
    )
    states, outputs = [], jnp.asarray(inputs)
    for index, sequence in enumerate(sequences):
        last = index == len(sequences) - 1
        if go_backwards and index:
            # The cell below returned its outputs in the order of processing.
            outputs = jnp.flip(outputs, time_axis(num_feature_axes, time_major))
        outputs, state = sequence(
            outputs,
            initial_state=initial[index],
            reset_state=fresh[index],
            go_backwards=go_backwards,
            time_major=time_major,
            return_sequences=return_sequences or not last,
            zero_output_for_mask=zero_output_for_mask and last,
            **options,
        )
        states.append(state)
    return outputs, tuple(states)
