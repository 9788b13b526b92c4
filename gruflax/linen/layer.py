"""The base classes of gruflax' linen modules: configs, and the call of a layer over a sequence."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from gruflax.functional.checks import check_flags
from gruflax.keras_names import regularizers
from gruflax.layers.cell_loop import Output, step_shape
from gruflax.layers.fields import Identifier, is_random, loop_options, settle_layer_fields
from gruflax.layers.nesting import State, as_tuple
from gruflax.linen.config import Config, read_config, write_config
from gruflax.linen.state import load_state, reset_stored_state, store_state


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StaticFlag:
    """A bool that stays static in `nn.remat` and `nn.jit`, which trace keyword arguments."""

    value: bool

    def __bool__(self) -> bool:
        return self.value


def as_flag(name: str, value: object) -> bool:
    """Returns a flag of a call as a bool, or raises a TypeError; None is False, as in Keras."""
    value = value.value if isinstance(value, StaticFlag) else value
    if value is None:
        return False
    check_flags(**{name: value})
    return bool(value)


class Module(nn.Module):
    """The base of all modules of gruflax: they have configs, as Keras' layers have."""

    def __init_subclass__(cls, **kwargs: Any):
        """Lets `nn.remat(GRU)(8)(inputs, training=True)` work.

        Flax's lifted transformations make a subclass and wrap its `__call__`. Those that trace
        keyword arguments would turn the Python bool `training` into an array, which cannot decide
        whether dropout is on. Therefore bools are passed to the wrapped method as `StaticFlag`s.
        """
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__call__")
        if own is None:
            return
        calls = (vars(base).get("__call__") for base in cls.__mro__[1:])
        inherited = next((call for call in calls if call is not None), None)
        # A method that a user's subclass defines is another function, and is not wrapped.
        if inherited is not None and inspect.unwrap(own) is inspect.unwrap(inherited):
            cls.__call__ = _with_static_flags(own)

    @nn.nowrap
    def get_config(self) -> Config:
        """Returns the config dict that Keras 3 would write for this layer.

        A field that Keras does not have, such as `loop` or `zoneout`, is written only if it differs
        from its default. A callable that Keras has no name for is written unchanged.

        Returns:
            A dict that `from_config`, of gruflax and of Keras 3, turns into an equal layer.
        """
        return write_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Makes a layer from a config dict of Keras 3, tf.keras or gruflax.

        Args:
            config: as `get_config` returns it; `dtype` is a dtype or a Keras dtype policy; with
                float32 the inputs choose the dtype unless `autocast` is True. Configs of Keras 2
                and tf.keras keep their meaning: their "hard_sigmoid" is `clip(0.2 x + 0.5, 0, 1)`.

        Returns:
            The layer.

        Raises:
            TypeError: `config` is no dict, or a value is of another type.
            ValueError: a key is unknown or missing, or a value is no valid argument.
        """
        return cls(**read_config(cls, config))


def _with_static_flags(call: Callable[..., Output]) -> Callable[..., Output]:
    def static(value: object) -> object:
        return StaticFlag(value) if isinstance(value, bool) else value

    @functools.wraps(call)
    def lifted(self, *args, **kwargs):
        kwargs = {name: static(value) for name, value in kwargs.items()}
        return call(self, *map(static, args), **kwargs)

    return lifted


class Layer(Module):
    """The base of `GRU` and `RNN`: masks, stored states and results around their `sequence`."""

    def __post_init__(self):
        # Each layer declares these fields, at their places in Keras' order of arguments.
        self.return_sequences: bool
        self.return_state: bool
        self.go_backwards: bool
        self.stateful: bool
        self.activity_regularizer: Identifier
        self.time_major: bool
        settle_layer_fields(self)
        super().__post_init__()

    def sequence(self, inputs: ArrayLike, **options: Any) -> tuple[Output, State]:
        """Runs the layer's cell over a sequence: `(outputs, state)`."""
        raise AttributeError(f"{type(self).__name__} must define sequence.")

    def own_state(self, input_shape: tuple[int, ...]) -> State:
        """Returns the initial state that the layer's cell chooses for inputs of a shape."""
        raise AttributeError(f"{type(self).__name__} must define own_state.")

    @nn.compact
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        seq_lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        reset_state: State = None,
        training: bool = False,
        initial_state: State = None,
    ) -> Output:
        """Runs the layer over a sequence.

        Args:
            inputs: `[..., t, f]` with any number of batch axes, or `[t, ..., f]` with `time_major`.
                Without a batch axis, `[t, f]` is one sequence, as in Flax; inputs whose batch axis
                was forgotten look the same.
            mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the
                state and the output stay what they were. None: all steps count.
            seq_lengths: `[...]` integers in [0, t]: only the first so many steps count. None: all.
            reset: like `mask`; where it is True the state goes back to `reset_state` before that
                step. None: nowhere.
            reset_state: the state after a reset, `[..., u]` for a GRU; needs `reset`. None: the
                cell's own initial state, learned or zeros, and never `initial_state`.
            training: whether to apply dropout, with masks from the "dropout" stream; a Python bool,
                False by default.
            initial_state: the state before the first step, `[..., u]` for a GRU, or a tuple or list
                of it. None: the stored state of a stateful layer, else the cell's own initial
                state, learned or zeros.

        Returns:
            The outputs `[..., t, u]`, or the last one `[..., u]` without `return_sequences`; with
            `return_state` a tuple of them and each of the states.

        Raises:
            TypeError: a flag is traced or not a bool, `seq_lengths` are not integers, `inputs` look
                like token ids, or another argument than `inputs` was given by position.
            ValueError: a shape does not fit, cuDNN was asked for and cannot run, the batch size of
                a stateful layer changed, its collection is not mutable, or dropout has no key; the
                message names the argument.
        """
        own = None
        if self.stateful:
            own = self.own_state(np.shape(inputs))
            stored = load_state(self, own)
            initial_state = stored if initial_state is None else initial_state
        outputs, state = self.sequence(
            inputs,
            mask=mask,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_state=reset_state,
            training=training,
            initial_state=initial_state,
            **loop_options(self),
        )
        if self.stateful:
            store_state(self, state, own)
        result = (outputs, *as_tuple(state)) if self.return_state else outputs
        sow_activity_loss(self, self.activity_regularizer, result)
        return result

    def reset_states(self, states: State = None) -> None:
        """Resets the stored state of a stateful layer.

        It writes the collection "recurrent_state": call it on a bound module, or by
        `layer.apply(variables, method="reset_states", mutable=["recurrent_state"])`.

        Args:
            states: `[..., u]`, or a tuple or list of it; None for zeros.

        Raises:
            AttributeError: the layer is not stateful.
            ValueError: nothing is stored yet, so that the batch size is unknown; the collection is
                not mutable; or the number or the shapes of the states differ from the stored ones.
        """
        reset_stored_state(self, self.stateful, states)

    def reset_state(self) -> None:
        """Resets the stored state to zeros, as ``reset_states()`` does."""
        self.reset_states()


def sow_activity_loss(layer: nn.Module, identifier: Identifier, result: Output) -> None:
    """Sows the loss of each output into the collection "losses"; not at init."""
    regularizer = regularizers.get(identifier, "activity_regularizer")
    if regularizer is None or layer.is_initializing():
        return
    for output in jax.tree.leaves(result):
        layer.sow("losses", "activity", regularizer(output))


def initial_carry(cell: nn.RNNCellBase, input_shape: tuple[int, ...], time_major: bool) -> State:
    """Returns the state of a cell before the first step, for inputs of shape `input_shape`."""
    # Flax's cells begin with zeros unless told otherwise; nn.RNN uses this key too.
    shape = step_shape(input_shape, cell.num_feature_axes, time_major)
    return cell.initialize_carry(jax.random.key(0), shape)


def dropout_key(module: nn.Module, training: object) -> jax.Array | None:
    """Returns a call's dropout key, from the stream or else `seed`; None if nothing is dropped."""
    if not as_flag("training", training) or not is_random(module):
        return None
    if module.has_rng("dropout"):
        return module.make_rng("dropout")
    seed = getattr(module, "seed", None)
    if seed is not None:
        return jax.random.key(seed)
    if module.is_initializing():
        return None
    raise ValueError(
        "training with dropout needs a key: pass rngs={'dropout': key} to apply, or set seed."
    )
