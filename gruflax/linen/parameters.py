"""The parameters of a GRU in a linen module: declared, regularised, and run over a sequence."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import check_inputs
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.params import check_params, check_size, params_shapes
from gruflax.functional.sequence import gru_sequence
from gruflax.layers.fields import (
    AXES,
    Identifier,
    axis_names,
    config_of,
    drops,
    initializer_of,
    option,
    settle_fields,
)
from gruflax.layers.protocols import GRULike
from gruflax.layers.states import single_state
from gruflax.linen.module import Module, as_flag
from gruflax.linen.serialization import Configurable


class GRUParameters(Configurable, kw_only=True):
    """What a cell and a layer with the fields of a GRU have in common."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: lax.PrecisionLike = None

    def __post_init__(self):
        settle_fields(cast(GRULike, self))
        super().__post_init__()

    @property
    def config(self) -> GRUConfig:
        """Returns what the GRU computes, as `gruflax.functional` takes it."""
        return config_of(cast(GRULike, self))

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array | None, input_shape: tuple[int, ...]) -> jax.Array:
        """Returns the state before the first step `[..., u]`, for steps of `input_shape`.

        It is zeros, or the learned state of a bound module that has one; `rng` is not used.
        """
        del rng
        shape = (*input_shape[:-1], self.units)
        if self.scope is None or not self.has_variable("params", "initial_state"):
            return jnp.zeros(shape, self.dtype or self.param_dtype)
        learned = nn.unbox(self.get_variable("params", "initial_state"))
        return jnp.broadcast_to(learned, shape).astype(self.dtype or learned.dtype)

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> tuple[jax.Array]:
        """Returns the state before the first step, for Keras: `([batch_size, u] zeros,)`."""
        check_size("batch_size", batch_size)
        return (self.initialize_carry(None, (batch_size, 1)),)

    @property
    def num_feature_axes(self) -> int:
        """Returns 1: an input step is `[..., f]`."""
        return 1

    @nn.nowrap
    def loop_options(self) -> dict[str, Any]:
        """Returns which loop the fields ask for, as options of `gru_sequence`."""
        return {}

    @nn.compact
    def sequence(
        self,
        inputs: ArrayLike,
        *,
        initial_state: ArrayLike | tuple | list | None = None,
        reset_state: ArrayLike | tuple | list | None = None,
        training: bool = False,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the GRU over a sequence: `gruflax.functional.gru_sequence` with its parameters."""
        fields: Any = self
        time_axis = 0 if options.get("time_major") else -2
        return gru_sequence(
            declare_params(self, inputs, time_axis),
            inputs,
            config=self.config,
            initial_state=single_state("initial_state", initial_state),
            reset_state=single_state("reset_state", reset_state),
            rng=dropout_key(self, training),
            dtype=fields.dtype,
            precision=fields.precision,
            **self.loop_options(),
            **options,
        )


class GRUFields(GRUParameters):
    """The fields that all GRUs begin with: Keras' order goes on in each class by itself."""

    units: int
    activation: Activation | Mapping[str, Any] = "tanh"
    recurrent_activation: Activation | Mapping[str, Any] = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Identifier = "glorot_uniform"
    recurrent_initializer: Identifier = "orthogonal"
    bias_initializer: Identifier = "zeros"
    kernel_regularizer: Identifier = None
    recurrent_regularizer: Identifier = None
    bias_regularizer: Identifier = None


class VariantFields(Module, kw_only=True):
    """What Keras' GRU does not have, nor TensorFlow 1's."""

    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False
    partitioned: bool = False


def declare_params(
    module: Any, inputs: ArrayLike, time_axis: int | None = None
) -> dict[str, jax.Array]:
    """Declares a GRU's parameters in a compact method, and sows their regularisation losses.

    `inputs` are a step `[..., f]`, or a sequence with its `time_axis` 0 or -2.
    """
    config, given = config_of(module), _given_params(module)
    features = None if given is None else check_params(given, config, module.units)[0]
    axes = {None: "...", 0: "time, ...", -2: "..., time"}[time_axis]
    check_inputs("inputs", inputs, features, axes, 1 if time_axis is None else 2)
    shapes = params_shapes(np.shape(inputs)[-1], module.units, config)
    params = {
        name: module.param(name, _boxing(module, name), shape, module.param_dtype)
        for name, shape in shapes.items()
    }
    sow_weight_losses(module, params)
    return params


def _given_params(module: nn.Module) -> dict[str, Any] | None:
    """What the variables hold for a GRU, before Flax asks for it; None where Flax will make it."""
    given = nn.unbox(module.variables.get("params", {}))
    if module.is_initializing() or (not given and module.is_mutable_collection("params")):
        return None
    # With none of a GRU's names, those of another library's are for the error to tell.
    return {name: given[name] for name in AXES if name in given} or dict(given)


def _boxing(module: Any, name: str) -> Callable[..., Any]:
    """Returns what draws a parameter, boxed with its axis names where the module asks for it."""
    draw = initializer_of(module, name)
    if not getattr(module, "partitioned", False):
        return draw

    def draw_boxed(key, shape, dtype):
        value = draw(key, shape, dtype)
        # An initializer that was given names of its own keeps them.
        boxed = isinstance(value, nn.meta.AxisMetadata)
        return value if boxed else nn.LogicallyPartitioned(value, axis_names(name, len(shape)))

    return draw_boxed


def sow_weight_losses(module: nn.Module, params: Mapping[str, jax.Array]) -> None:
    """Sows the losses of a GRU's parameters into "losses", each once; not at init."""
    for name, value in params.items():
        regularizer = option(module, name, "regularizer")
        if regularizer is not None and not module.is_initializing():
            # A layer that is called twice still has each of its weights once.
            module.sow(
                "losses",
                name,
                regularizer(value),
                reduce_fn=lambda _, loss: loss,
                init_fn=lambda: jnp.zeros(()),
            )


def dropout_key(module: nn.Module, training: Any) -> jax.Array | None:
    """Finds the key of a call's dropout: of the stream, else of `seed`; None to drop nothing."""
    if not as_flag("training", training) or not drops(module):
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
