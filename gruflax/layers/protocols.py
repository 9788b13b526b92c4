"""What code for modules of either of Flax's systems asks of them."""

from typing import Any, Protocol

import jax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.config import Activation


# What cells carry from step to step: an array `[..., u]`, or any pytree of arrays.
State = Any


class GRULike(Protocol):
    """A cell or a layer with the fields of a GRU, under Keras' names."""

    units: int
    activation: Activation | Any
    recurrent_activation: Activation | Any
    use_bias: bool
    reset_after: bool
    dropout: float
    recurrent_dropout: float
    implementation: int
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    precision: jax.lax.PrecisionLike


class Cell(Protocol):
    """What makes a step; `initialize_carry` takes a key first in linen, a shape first in NNX."""

    initialize_carry: Any
    num_feature_axes: Any


class Returning(Protocol):
    """A layer, or a pair of layers, that says what its call returns."""

    return_sequences: Any
    return_state: Any
    stateful: Any
    go_backwards: Any
    time_major: Any


class RecurrentLayer(Returning, Protocol):
    """A cell over a sequence: a `GRU` or an `RNN`."""

    unroll: bool
    zero_output_for_mask: bool
    activity_regularizer: Any
    step_cell: Any

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[jax.Array, State]:
        """Returns the outputs, all or the last one, and the last state."""
        ...
