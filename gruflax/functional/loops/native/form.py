"""The static part of an operation of the native loop, and the order of its arrays."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from gruflax.functional.call import Call
from gruflax.functional.checks import PyTree
from gruflax.functional.loops.native.axes import array_names, axes_of


# Arrays, or pytrees of arrays, by name.
Arrays = dict[str, PyTree]
# The arrays of an operation, or of its results, in the order of `jax.tree.leaves`; and their types.
Leaves = Sequence[jax.Array]
Types = Sequence[jax.ShapeDtypeStruct]


class Form(NamedTuple):
    """The static part of an operation: what JAX must know of it besides its arrays, the leaves.

    Attributes:
        tree: the structure of its arguments, a `Call` and a dictionary.
        each: for each leaf, whether it has an axis of members.
        options: the operation's own options, pairs `(name, value)`.
    """

    tree: object
    each: tuple[bool, ...]
    options: tuple[tuple[str, object], ...]

    def arguments(self, leaves: Sequence[object]) -> tuple[Call, Arrays]:
        """Rebuilds the arguments, a call and a dictionary, from their leaves."""
        return jax.tree.unflatten(self.tree, leaves)

    def members(self, leaves: Leaves | Types) -> int | None:
        """Returns the number of members, or None if no leaf has an axis of members."""
        sizes = (leaf.shape[0] for leaf, each in zip(leaves, self.each, strict=True) if each)
        return next(sizes, None)

    def single(self, leaves: Leaves | Types) -> tuple[Call, Arrays]:
        """Returns the types of the arguments of one member."""
        return self.arguments(
            [
                jax.ShapeDtypeStruct(leaf.shape[each:], leaf.dtype)
                for leaf, each in zip(leaves, self.each, strict=True)
            ]
        )

    def mesh_axes(self, types: Types) -> dict[str, str | tuple[str, ...]]:
        """Finds the explicit mesh axes that members and batch are sharded over, by name of axis."""
        call, _ = self.single(types)
        names = array_names(self.tree)
        found = {}
        for each_type, name, each in zip(types, names, self.each, strict=True):
            spec = each_type.sharding.spec
            for axis, place in zip(axes_of(call, name, each), spec, strict=True):
                if place is not None:
                    found[axis] = place
        return found

    def named(self, leaves: Sequence[object]) -> Arrays:
        """Returns leaves by their names."""
        return dict(zip(array_names(self.tree), leaves, strict=True))

    def mapped(self, function: Callable[..., list[jax.Array]]) -> Callable[..., list[jax.Array]]:
        """Maps a function of leaves over the members."""
        if not any(self.each):
            return function
        return jax.vmap(function, in_axes=tuple(0 if each else None for each in self.each))
