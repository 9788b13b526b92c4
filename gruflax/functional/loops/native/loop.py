"""The native loop: a C++ kernel on CPUs, and the chunked loop on other platforms.

The choice between the two is made when a program is lowered. A program that is traced on a CPU can
thus run on a GPU, and an exported program can run where there is no kernel (see `primitives`,
`operations`).

Memory: all threads share the packed weights. Each thread has the gates of a chunk, at most 192
steps of all its rows together. Each part of the rows, of which there are at most 64, has sums of
the weights' gradients. Differentiation also keeps the gates of all steps, four times the outputs,
if they take less than 64 MiB and `remat` is not set.

16-bit floats are computed in float32: the state is float32 over all steps, and the results are
rounded.

Known limits: those in `conditions`; at a point where an activation has no derivative, the
derivative of one side is used.
"""

import jax

from gruflax.functional.call import Call
from gruflax.functional.loops.native.axes import array_names, axes_of, batch_axes
from gruflax.functional.loops.native.operations import states
from gruflax.functional.sharding import sharded_like, vary_with


def native_loop(call: Call) -> tuple[jax.Array | None, jax.Array]:
    """Runs a call: `(outputs [..., t, u] or None, the last state [..., u])`."""
    # Inside `jax.shard_map` all operands of the kernel must vary over the same mesh axes. For those
    # that did not, the transpose of `vary_with` adds up the gradients.
    call = jax.tree.map(lambda array: vary_with(array, call), call)
    inputs, batch = call.steps.inputs, batch_axes(call)
    order = axes_of(call, "inputs", has_members=False)
    leaves, tree = jax.tree.flatten(call)

    def placed(array, name):
        """Shards an array like the batch of the inputs, and along no other axis."""
        axes = axes_of(call, name, has_members=False)
        places = [order.index(axis) if axis in batch else None for axis in axes]
        return sharded_like(array, inputs, places)

    return states(jax.tree.unflatten(tree, map(placed, leaves, array_names(tree))))
