"""Converting the states of PyTorch's `torch.nn.GRU`, h_0 and h_n."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gruflax.convert.torch_sources import as_array
from gruflax.functional.checks import brief
from gruflax.linen import GRU, Bidirectional, Stack


def from_torch_state(module: GRU | Bidirectional | Stack, state: ArrayLike) -> ArrayLike | tuple:
    """Converts torch's h_0 or h_n to the `initial_state` of a layer.

    For a layer and its variables of `from_torch`::

        gru, variables = from_torch(torch_gru, return_state=True)
        outputs, *_ = gru.apply(variables, x, initial_state=from_torch_state(gru, h_0))

    Args:
        module: the layer, as `from_torch` returns it.
        state: an array or tensor `[layers * directions, b, u]`, or `[layers * directions, u]` for
            one sequence without a batch axis. It may be traced by `jax.jit`.

    Returns:
        For a `gruflax.GRU` the state `[b, u]`, for a `Bidirectional` a tuple of the forward and
        the backward state, for a `Stack` a tuple with a tuple of one or two states for each layer.

    Raises:
        TypeError: `module` is of another type.
        ValueError: `state` has another shape.
    """
    counts, units = _layout(module)
    array = state if isinstance(state, jax.Array) else as_array(state)
    if array.ndim not in (2, 3) or (len(array), array.shape[-1]) != (sum(counts), units):
        raise ValueError(
            f"state must be [{sum(counts)}, b, {units}] or [{sum(counts)}, {units}], as torch's "
            f"[layers * directions, b, units] is for module, got {brief(array)}."
        )
    states = iter(array)
    layers = tuple(tuple(next(states) for _ in range(count)) for count in counts)
    if isinstance(module, Stack):
        return layers
    return layers[0] if isinstance(module, Bidirectional) else layers[0][0]


def to_torch_state(module: GRU | Bidirectional | Stack, state: ArrayLike | tuple) -> jax.Array:
    """Converts the states of a layer to torch's h_0 or h_n.

    For a layer with `return_state=True`::

        outputs, *state = gru.apply(variables, x)
        h_n = torch.tensor(np.asarray(to_torch_state(gru, state)))

    Args:
        module: the layer, as `to_torch` takes it.
        state: the states that it returned with `return_state=True`, or took as `initial_state`, in
            any nesting of tuples and lists. They may be traced by `jax.jit`.

    Returns:
        An array `[layers * directions, b, u]`, or `[layers * directions, u]` for states without a
        batch axis.

    Raises:
        TypeError: `module` is of another type.
        ValueError: there is not one state for each direction of each layer, or not of one shape.
    """
    counts, units = _layout(module)
    states = jax.tree.leaves(state)
    shapes = [np.shape(each) for each in states]
    fits = len(shapes[:1]) and len(shapes[0]) in (1, 2) and shapes[0][-1] == units
    if not fits or shapes != shapes[:1] * sum(counts):
        raise ValueError(
            f"state must hold {sum(counts)} states [b, {units}] or [{units}], one for each "
            f"direction of each layer of module, got {shapes}."
        )
    return jnp.stack(states)


def _layout(module: object) -> tuple[list[int], int]:
    """Returns the number of directions of each layer, and the units of the first."""
    counts, units = [], []
    for layer in module.layers if isinstance(module, Stack) else (module,):
        gru = layer.layer if isinstance(layer, Bidirectional) else layer
        if not isinstance(gru, GRU):
            raise TypeError(
                "module must be a gruflax.GRU, a Bidirectional of GRUs or a Stack of these, got "
                f"{type(gru).__name__}."
            )
        counts.append(1 + isinstance(layer, Bidirectional))
        units.append(gru.units)
    return counts, units[0]
