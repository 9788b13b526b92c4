"""The loop that is a C++ kernel on CPUs, and the chunked loop on other platforms.

Which of the two is decided where a program is lowered, so that one that is traced on a CPU runs on
a GPU, and one that is exported runs where there is no kernel (`primitives`, `operations`).

Memory: all threads share the packed weights; each has the gates of a chunk, at most 192 steps of
all its rows together; and each part of the rows, at most 64, the sums of the weights' gradients.
Under differentiation there are the gates of all steps besides, four times the outputs, where they
take less than 64 MiB and `remat` is not set.

16-bit floats are computed in float32: the states are carried in it over all steps, and the results
are rounded.

Known limits: `conditions`; where an activation has no derivative, that of one side is taken.
"""

import jax

from gruflax.functional.call import Call
from gruflax.functional.loops.native.axes import array_names, axes_of, batch_axes
from gruflax.functional.loops.native.operations import states
from gruflax.functional.sharding import sharded_like, vary_with


def native_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call: `(outputs [..., t, u] or None, the last state [..., u])`."""
    # Inside `jax.shard_map` the kernel's operands must vary over the same mesh axes; the transpose
    # of that adds up the gradients of those that did not.
    call = jax.tree.map(lambda array: vary_with(array, call), call)
    inputs, batch = call.steps.inputs, batch_axes(call)
    order = axes_of(call, "inputs", has_members=False)
    leaves, tree = jax.tree.flatten(call)

    def placed(array, name):
        """Spreads an array over devices as the batch of the inputs is, and along no other axis."""
        axes = axes_of(call, name, has_members=False)
        places = [order.index(axis) if axis in batch else None for axis in axes]
        return sharded_like(array, inputs, places)

    return states(jax.tree.unflatten(tree, map(placed, leaves, array_names(tree))))
