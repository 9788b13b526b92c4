"""Names for the axes of the arrays of a call, and for the arrays themselves."""

import jax

from gruflax.functional.call import Call
from gruflax.functional.checks import PyTree


WEIGHTS = ("kernel", "recurrent_kernel", "bias")
# The name of the axis of members, which is in front of the others. `jax.vmap` over weights makes a
# call of several members: see `primitives`.
MEMBER = "member"


def batch_axes(call: Call) -> tuple[str, ...]:
    """Names the batch axes of a call."""
    return tuple(f"batch_{axis}" for axis in range(call.initial_state.ndim - 1))


def array_axes(
    name: str, batch: tuple[str, ...], time_major: bool, reset_after: bool = True
) -> tuple[str, ...]:
    """Names the axes of an array or result; the axes of time and batch have one name in all."""
    steps = ("time", *batch) if time_major else (*batch, "time")
    first, last = f"{name}_first", f"{name}_last"
    if name == "bias" and not reset_after:
        return (last,)
    if name in WEIGHTS:
        return first, last
    if name.endswith("state"):
        return *batch, last
    if name.endswith("masks"):
        return first, *batch, last
    return steps if name in ("valid", "reset") else (*steps, last)


def axes_of(call: Call, name: str, has_members: bool) -> tuple[str, ...]:
    """Names the axes of an array of a call, with members in front if it has them."""
    axes = array_axes(name, batch_axes(call), call.time_major, call.config.reset_after)
    return (MEMBER, *axes) if has_members else axes


def batch_axis(name: str, time_major: bool) -> int:
    """Returns the index of the first batch axis of an array that is not a weight."""
    return array_axes(name, ("first",), time_major).index("first")


def array_names(tree: PyTree) -> list[str]:
    """Names the leaves of the structure of a pytree, each by its field of a Call or its key."""
    return [f"{path[-1]}_masks" if "masks" in path else path[-1] for path in _paths(tree)]


def linear_leaves(tree: PyTree) -> list[bool]:
    """Returns for each leaf whether it is under the key "linear"."""
    return ["linear" in path for path in _paths(tree)]


def _paths(tree: PyTree) -> list[list[str]]:
    numbers = jax.tree.unflatten(tree, range(tree.num_leaves))
    return [
        [getattr(part, "name", None) or getattr(part, "key", "") for part in path]
        for path, _ in jax.tree_util.tree_flatten_with_path(numbers)[0]
    ]
