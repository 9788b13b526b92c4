"""A sequence in both directions, whatever the layers' module system is."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.directions import merge_directions, reversed_reset, state_halves
from gruflax.named.sequences import time_axis


def run_directions(
    run: Callable[..., Any],
    layers: tuple[Any, Any],
    inputs: ArrayLike,
    num_feature_axes: int,
    *,
    merge_mode: str | None,
    initial_state: tuple | list | None,
    reset: ArrayLike | None,
) -> Any:
    """Runs two layers over a sequence and merges what they return.

    Args:
        run: `(layer, initial_state=, reset=)` -> what the layer returns for the inputs.
        layers: forward and backward, as `check_pair` wants them.
        inputs: `[..., t, *features]`, or `[t, ..., *features]` with `time_major`.
        num_feature_axes: of the layers' cells.
        merge_mode: "concat", "sum", "mul", "ave", or None for both outputs.
        initial_state: the states of the forward layer, then as many of the backward layer; or None.
        reset: `[..., t]` or `[..., t, 1]`, at the first step of each part of a sequence; or None.

    Returns:
        The merged outputs; with `return_state` a tuple of them and both layers' states.

    Raises:
        ValueError: a shape or the number of states does not fit; the message names the argument.
    """
    forward = layers[0]
    axis = time_axis(num_feature_axes, forward.time_major)
    axis = axis if axis >= 0 else max(np.ndim(inputs) + axis, 0)
    results = []
    for layer, state in zip(layers, state_halves("initial_state", initial_state), strict=True):
        boundaries = reversed_reset(reset, axis) if layer.go_backwards else reset
        result = run(layer, initial_state=state, reset=boundaries)
        results.append(result if layer.return_state else (result,))
    (output, *states), (other, *other_states) = results
    if forward.return_sequences:
        other = jnp.flip(other, axis)
    merged = merge_directions(merge_mode, output, other)
    if not forward.return_state:
        return merged
    outputs = merged if merge_mode is None else (merged,)
    return (*outputs, *states, *other_states)


def check_pair(names: tuple[str, str], layers: tuple[Any, Any]) -> None:
    """Raises a ValueError unless two layers go together.

    Args:
        names: the arguments' names, for the error.
        layers: they must go opposite ways and agree on all else that a caller sees.
    """
    pair = " and ".join(names)
    one, two = layers
    if one.go_backwards == two.go_backwards:
        raise ValueError(
            f"{pair} must have opposite go_backwards, got {one.go_backwards} for both."
        )
    for field in ("stateful", "return_sequences", "return_state", "time_major"):
        values = getattr(one, field), getattr(two, field)
        if values[0] != values[1]:
            raise ValueError(f"{pair} must have the same {field}, got {values[0]} and {values[1]}.")
