"""Rules of `jax.vmap`: a mapped operation becomes one with more members or a larger batch."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gruflax.functional.loops.native.axes import WEIGHTS, array_names, batch_axis
from gruflax.functional.loops.native.form import Form, Leaves


# A function `(form, leaves) -> results` that runs an operation.
Bind = Callable[[Form, Leaves], list[jax.Array]]


def weights_differ(form: Form, mapped: Sequence[bool]) -> bool:
    """Returns whether weights, or gradients of weights that are asked for, have the mapped axis."""
    wanted = dict(form.options).get("wanted", ())
    names = array_names(form.tree)
    return (isinstance(wanted, tuple) and "params" in wanted) or any(
        name in WEIGHTS for name, each in zip(names, mapped, strict=True) if each
    )


def over_members(
    bind: Bind, form: Form, leaves: Leaves, mapped: Sequence[bool], size: int
) -> list[jax.Array]:
    """Turns the mapped axis, the first one of mapped leaves, into the axis of members."""
    before = form.each
    form = form._replace(each=tuple(a or b for a, b in zip(mapped, before, strict=True)))
    if not any(before):
        return bind(form, leaves)
    # If there are members already, both axes are joined, [size, m, ...] to [size m, ...], because
    # the kernel knows one axis of members only.
    flags = zip(leaves, mapped, before, strict=True)
    shape = size, next(leaf.shape[by_size] for leaf, by_size, each in flags if each)

    def merged(leaf, by_size, by_members):
        if not by_size and not by_members:
            return leaf
        leaf = leaf if by_size else leaf[None]
        leaf = leaf if by_members else leaf[:, None]
        leaf = jnp.broadcast_to(leaf, (*shape, *leaf.shape[2:]))
        return leaf.reshape(math.prod(shape), *leaf.shape[2:])

    found = bind(form, list(map(merged, leaves, mapped, before)))
    return [leaf.reshape(*shape, *leaf.shape[1:]) for leaf in found]


def over_batch(
    bind: Bind,
    result_names: Callable[[Form, Leaves], list[str]],
    form: Form,
    leaves: Leaves,
    mapped: Sequence[bool],
    size: int,
) -> list[jax.Array]:
    """Turns the mapped axis into the first batch axis; all rows share the weights."""
    time_major = form.arguments(leaves)[0].time_major

    def folded(leaf, name, by_size, by_members):
        if name in WEIGHTS:
            return leaf
        axis = batch_axis(name, time_major) + by_members
        if by_size:
            return jnp.moveaxis(leaf, 0, axis)
        shape = (*leaf.shape[:axis], size, *leaf.shape[axis:])
        return jnp.broadcast_to(jnp.expand_dims(leaf, axis), shape)

    leaves = list(map(folded, leaves, array_names(form.tree), mapped, form.each))
    return [
        jnp.moveaxis(leaf, batch_axis(name, time_major) + any(form.each), 0)
        for leaf, name in zip(bind(form, leaves), result_names(form, leaves), strict=True)
    ]
