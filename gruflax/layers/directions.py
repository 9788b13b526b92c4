"""Runs two layers over a sequence in opposite directions, for linen and for NNX."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.functional.checks import brief
from gruflax.functional.masks import combined_mask, where_steps
from gruflax.functional.sharding import mesh_of
from gruflax.layers.cell_loop import Output, time_axis
from gruflax.layers.fields import LayerLike
from gruflax.layers.nesting import State


MERGE_MODES = ("concat", "sum", "mul", "ave", None)


def merge_directions(merge_mode: str | None, forward: Output, backward: Output) -> Output:
    """Merges the outputs of two directions, array by array where a cell has several.

    Source: Keras 3's `Bidirectional`.
    """
    check_merge_mode(merge_mode)
    if merge_mode is None:
        return forward, backward
    return jax.tree.map(functools.partial(_merged, merge_mode), forward, backward)


def _merged(merge_mode: str, forward: jax.Array, backward: jax.Array) -> jax.Array:
    if merge_mode == "concat":
        return jnp.concatenate([forward, backward], axis=-1)
    if forward.shape != backward.shape:
        raise ValueError(
            f"merge_mode={merge_mode!r} needs outputs of equal shapes, "
            f"got {forward.shape} and {backward.shape}."
        )
    if merge_mode == "mul":
        return forward * backward
    return forward + backward if merge_mode == "sum" else (forward + backward) / 2


def check_merge_mode(merge_mode: str | None) -> None:
    """Raises a ValueError unless `merge_mode` is one of Keras' five."""
    if not isinstance(merge_mode, (str, type(None))) or merge_mode not in MERGE_MODES:
        layer = hasattr(merge_mode, "return_sequences")
        remedy = ": the second layer is backward_layer=" if layer else ""
        raise ValueError(
            f"merge_mode must be one of {MERGE_MODES}, got {brief(merge_mode)}{remedy}."
        )


def state_halves(name: str, states: State) -> tuple[State, State]:
    """Splits states into those of the first and those of the second direction, as Keras does."""
    if states is None:
        return None, None
    if not isinstance(states, (tuple, list)) or len(states) % 2 or not states:
        got = len(states) if isinstance(states, (tuple, list)) else type(states).__name__
        raise ValueError(
            f"{name} must be a tuple or list: the states of the forward layer, then as many of "
            f"the backward layer; got {got}."
        )
    half = len(states) // 2
    return states[:half], states[half:]


def reversed_reset(reset: ArrayLike | None, axis: int) -> jax.Array | None:
    """Moves resets so that a layer that goes backwards resets at the same boundaries.

    A reset at step t separates step t - 1 from step t: going backwards, step t - 1 begins anew.
    """
    if reset is None or np.ndim(reset) <= axis:
        # The layer reports a wrong shape.
        return reset if reset is None else jnp.asarray(reset)
    moved = jnp.moveaxis(jnp.asarray(reset).astype(bool), axis, 0)
    moved = jnp.concatenate([moved[1:], jnp.zeros_like(moved[:1])])
    return jnp.moveaxis(moved, 0, axis)


def run_directions(
    run: Callable[..., Output],
    layers: tuple[LayerLike, LayerLike],
    inputs: ArrayLike,
    num_feature_axes: int,
    *,
    merge_mode: str | None,
    initial_state: tuple | list | None,
    mask: ArrayLike | None,
    seq_lengths: ArrayLike | None,
    reset: ArrayLike | None,
) -> Output:
    """Runs two layers that have passed `check_pair`, and merges their outputs.

    `run(layer, **options)` runs one layer over the inputs. As in Keras, sequences of outputs are
    zeros at masked steps. Returns the merged outputs, and with `return_state` both layers' states.
    """
    forward = layers[0]
    axis = time_axis(num_feature_axes, forward.time_major)
    axis = axis if axis >= 0 else max(np.ndim(inputs) + axis, 0)
    steps = np.shape(inputs)[: np.ndim(inputs) - num_feature_axes]
    marks = {"mask": mask, "seq_lengths": seq_lengths}
    results = []
    for layer, state in zip(layers, state_halves("initial_state", initial_state), strict=True):
        boundaries = reversed_reset(reset, axis) if layer.go_backwards else reset
        result = run(layer, initial_state=state, reset=boundaries, **marks)
        results.append(result if layer.return_state else (result,))
    (output, *states), (other, *other_states) = results
    with mesh_of(inputs):
        if forward.return_sequences:
            other = jax.tree.map(lambda each: jnp.flip(each, axis), other)
            batch_shape = steps[:axis] + steps[axis + 1 :]
            valid = combined_mask(mask, seq_lengths, batch_shape, steps[axis], axis)
            if valid is not None:
                valid = jnp.flip(valid, axis) if forward.go_backwards else valid
                output, other = jax.tree.map(
                    lambda each: where_steps(valid, each, 0), (output, other)
                )
        merged = merge_directions(merge_mode, output, other)
    if not forward.return_state:
        return merged
    outputs = merged if merge_mode is None else (merged,)
    return (*outputs, *states, *other_states)


def _of_forward(name: str) -> Any:
    return property(operator.attrgetter(f"_forward.{name}"), doc=f"The forward layer's `{name}`.")


class Pair:
    """The options that a bidirectional layer takes from its forward layer."""

    return_sequences = _of_forward("return_sequences")
    return_state = _of_forward("return_state")
    stateful = _of_forward("stateful")
    go_backwards = _of_forward("go_backwards")
    time_major = _of_forward("time_major")


def check_pair(names: tuple[str, str], layers: tuple[LayerLike, LayerLike]) -> None:
    """Raises a ValueError unless two layers have opposite directions and the same other options."""
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
