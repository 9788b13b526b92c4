"""Sums of losses, and functions of weights that `vmap` or `scan` has stacked, for linen and NNX."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


Shapes = Mapping[str, tuple[int, ...]]
# The axes on which a transformation has stacked weights; None finds them from the shapes.
StackedAxis = int | tuple[int, ...] | None


def sum_losses(losses: Iterable[jax.Array]) -> jax.Array:
    """Adds up losses in the widest of their dtypes; returns a float 0 where there are none."""
    losses = list(losses)
    if not losses:
        return jnp.asarray(0.0)
    # The dtype is chosen explicitly, so that strict promotion does not refuse mixed losses.
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*losses)
    return jnp.stack([jnp.sum(loss).astype(dtype) for loss in losses]).sum()


def each_member(
    function: Callable[..., Any], axes: tuple[int, ...], scalar: bool = False
) -> Callable[..., Any]:
    """Maps a function of one weight over the axes on which weights are stacked.

    The results are stacked on the same axes, or on the first axes where each is a `scalar`.
    """
    # Each vmap removes its axis from the weight that the functions inside of it get.
    for axis in sorted(axes):
        function = jax.vmap(function, in_axes=axis, out_axes=0 if scalar else axis)
    return function


def stacked_axes(
    shapes: Shapes, members: Shapes, axis: StackedAxis = None, names: Iterable[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Finds on which axes the weights of a GRU are stacked, from their `shapes`.

    `members` are the shapes of the weights of a single GRU. All weights of a GRU are stacked on the
    same axes, counted from the front or from the end. Returns the axes by the name of the weight,
    for `names` or else for all weights.

    Raises:
        ValueError: the shapes do not fit `axis`, or they fit several axes and none is given.
    """
    extra = {name: len(shapes[name]) - len(members[name]) for name in members}
    count = max(extra.values())
    names = list(members if names is None else names)
    if not count:
        return dict.fromkeys(names, ())
    rank = max(map(len, shapes.values()))
    every = itertools.combinations(range(-rank, rank), count)
    distinct = _distinct(shapes, members, every, names)
    if len(distinct) > 1 and axis is not None:
        given = axis if isinstance(axis, tuple) else (axis,)
        distinct = _distinct(shapes, members, [given], names)
    if len(distinct) == 1:
        return distinct[0]
    what = f"weights {dict(shapes)} are those of members {dict(members)} stacked on"
    if axis is None and distinct:
        raise ValueError(f"stacked_axis must be given where several fit: {what} which axis?")
    raise ValueError(f"stacked_axis must be an axis such that {what} it, got {axis}.")


def _distinct(
    shapes: Shapes, members: Shapes, choices: Iterable[tuple[int, ...]], names: list[str]
) -> list[dict[str, tuple[int, ...]]]:
    """Returns the axes of the named weights for each of some choices that fits, without repeats."""
    places = [_places(shapes, members, choice) for choice in choices]
    found = [{name: each[name] for name in names} for each in places if each is not None]
    return [each for index, each in enumerate(found) if each not in found[:index]]


def _places(
    shapes: Shapes, members: Shapes, axes: tuple[int, ...]
) -> dict[str, tuple[int, ...]] | None:
    """Returns `axes` for each weight, counted from the front; None where a weight does not fit."""
    found: dict[str, tuple[int, ...]] = {}
    for name, member in members.items():
        shape = shapes[name]
        if shape == member:
            found[name] = ()
            continue
        places = {axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape)}
        rest = tuple(np.delete(shape, list(places)).tolist())
        if len(places) != len(axes) or rest != member:
            return None
        found[name] = tuple(sorted(places))
    return found
