"""The base class of NNX layers: the call of a layer over a sequence, and random streams."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import brief
from gruflax.keras_names import regularizers
from gruflax.layers.cell_loop import Output, step_shape
from gruflax.layers.fields import Identifier, loop_options
from gruflax.layers.nesting import State, as_tuple, cast_states, check_stateful
from gruflax.nnx.state import load_state, reset_states, store_state


# The sources of dropout masks: several streams, one stream, or a key.
Streams = nnx.Rngs | nnx.RngStream | jax.Array


class ActivityLoss(nnx.Intermediate):
    """The losses of an `activity_regularizer`, one for each output of a call; see `total_loss`."""


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class Layer(nnx.Module):
    """The base of `GRU` and `RNN`: their common arguments, see `GRU`, and their call."""

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False
    activity_regularizer: Identifier = None
    time_major: bool = False

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the layer's cell over a sequence: `(outputs, state)`."""
        raise AttributeError(f"{type(self).__name__} must define sequence.")

    def own_state(self, input_shape: tuple[int, ...]) -> State:
        """Returns the initial state that the layer's cell chooses for inputs of a shape."""
        raise AttributeError(f"{type(self).__name__} must define own_state.")

    def mirrored(self, rngs: nnx.Rngs) -> Self:
        """Returns a layer of the same arguments with new weights and the opposite direction."""
        return rebuilt(self, rngs, go_backwards=not self.go_backwards)

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: State = None,
        initial_state: State = None,
        deterministic: bool | None = None,
        rngs: Streams | None = None,
        training: None = None,
    ) -> Output:
        """Runs the layer over a sequence; errors are those of `gruflax.GRU`.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                state and the output stay what they were. None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step. None: nowhere.
            reset_state: the state after a reset, `[..., u]` for a GRU; needs `reset`. None: the
                cell's own initial state, learned or zeros.
            initial_state: the state before the first step, `[..., u]` for a GRU, or a tuple or list
                of it. None: the stored state of a stateful layer, else the cell's own initial
                state, learned or zeros.
            deterministic: whether dropout is off. None: as the attribute of the cell says.
            rngs: a stream "dropout", or a key. None: the stream that the cell keeps.
            training: must be None: use `deterministic`, `train()` or `eval()` in NNX.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and each of the states.
        """
        refuse_linen_ways(self, training)
        if self.stateful:
            stored = load_state(self, self.own_state(np.shape(inputs)))
            initial_state = stored if initial_state is None else initial_state
        outputs, state = self.sequence(
            inputs,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            initial_state=initial_state,
            deterministic=deterministic,
            rngs=rngs,
            **loop_options(self),
        )
        if self.stateful:
            store_state(self, state)
        result = (outputs, *as_tuple(state)) if self.return_state else outputs
        sow_activity_loss(self, self.activity_regularizer, result)
        return result

    def init_state(self, input_shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> None:
        """Makes the stored state of a stateful layer before its first call.

        It has the shape and dtype that the first call would store. Transformations that must know
        the structure of a module from the start, such as `nnx.scan`, need it.

        Args:
            input_shape: shape of the inputs, with batch, time and features.
            dtype: dtype of the inputs. Default float32.

        Raises:
            AttributeError: the layer is not stateful.
        """
        check_stateful(self.stateful)
        inputs = jax.ShapeDtypeStruct(tuple(input_shape), dtype)

        def last_state(inputs):
            layer = nnx.clone(self)
            return layer.sequence(inputs, deterministic=True, time_major=self.time_major)[1]

        # The dtype of the state depends on the dtypes of both parameters and inputs.
        state = jax.eval_shape(last_state, inputs)
        store_state(self, cast_states(self.own_state(inputs.shape), state))

    def reset_states(self, states: State = None) -> None:
        """Resets the stored state, see `gruflax.nnx.reset_states`."""
        reset_states(self, states)


def sow_activity_loss(layer: nnx.Module, identifier: Identifier, result: Output) -> None:
    """Sows the activity loss of each output of a call within `nnx.capture`."""
    # Outside of nnx.capture the losses would not be collected, and would accumulate.
    regularizer = regularizers.get(identifier, "activity_regularizer")
    if regularizer is None or not hasattr(layer, "__captures__"):
        return
    for output in jax.tree.leaves(result):
        layer.sow(ActivityLoss, "activity", regularizer(output))


def initial_carry(cell: nnx.RNNCellBase, input_shape: tuple[int, ...], time_major: bool) -> State:
    """Returns the state of a cell before the first step, for inputs of shape `input_shape`."""
    shape = step_shape(input_shape, cell.num_feature_axes, time_major)
    # Flax's cells begin with zeros unless told otherwise; nnx.RNN uses this stream too.
    return cell.initialize_carry(shape, nnx.RngStream(0, tag="carry"))


def rebuilt(module: Any, rngs: nnx.Rngs, **changes: object) -> Any:
    """Makes a module of the same arguments, except for `changes`, with new weights."""
    names = [field.name for field in dataclasses.fields(module) if field.init]
    arguments = {name: getattr(module, name) for name in names} | changes
    return type(module)(**arguments, rngs=rngs)


def refuse_linen_ways(layer: nnx.Module, training: object = None) -> None:
    """Raises a TypeError where an NNX layer is called with `training`, or inside a linen module."""
    linen = nnx.bridge.wrappers.current_linen_module()
    if linen is not None and not isinstance(linen, nnx.bridge.ToLinen):
        raise TypeError(
            f"{type(layer).__name__} is an NNX module: in {type(linen).__name__}, a linen module, "
            "its weights would be no parameters; take the layer of gruflax instead of gruflax.nnx, "
            "or wrap it by nnx.bridge.ToLinen."
        )
    if training is not None:
        raise TypeError(
            f"{type(layer).__name__} has no argument training: give deterministic=, or set it by "
            "train() and eval()."
        )


def stream(name: str, rngs: object) -> nnx.RngStream:
    """Takes a stream out of `rngs`."""
    if isinstance(rngs, nnx.RngStream):
        return rngs
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be an nnx.Rngs with a {name!r} stream, got {brief(rngs)}.")
    if name not in rngs and "default" not in rngs:
        raise ValueError(f"rngs must have a {name!r} or a 'default' stream, got {list(rngs)}.")
    return rngs[name]


def draw_key(name: str, rngs: object) -> jax.Array:
    """Draws a key from a stream of `rngs`; where `rngs` is a key, returns it."""
    return rngs if isinstance(rngs, jax.Array) else stream(name, rngs)()


def split_streams(rngs: Streams | None, count: int) -> Sequence[Streams | None] | jax.Array:
    """Returns the `rngs` of each of `count` modules: streams are shared, a key is split."""
    return jax.random.split(rngs, count) if isinstance(rngs, jax.Array) else (rngs,) * count
