"""The base class of TensorFlow 1's cell and layer: activations, dropout masks and configs."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from gruflax.functional.activations import hard_sigmoid_v1 as hard_sigmoid
from gruflax.functional.config import Activation, GRUConfig
from gruflax.functional.dropout import dropout_mask
from gruflax.keras_names import activations
from gruflax.linen.config import Config
from gruflax.linen.gru import GRUBase
from gruflax.linen.layer import dropout_key


MASKS = "dropout_masks"

# None for no dropout, one mask, or one for each gate.
Masks = jax.Array | list[jax.Array] | None


class V1Module(GRUBase):
    """The base of v1's `GRUCell` and `GRU`: v1's defaults, and v1's form of configs."""

    recurrent_activation: Activation | Mapping[str, object] = "hard_sigmoid"

    def __post_init__(self):
        for name in ("dropout", "recurrent_dropout"):
            object.__setattr__(self, name, min(1.0, max(0.0, float(getattr(self, name)))))
        if self.implementation == 0 or self.recurrent_dropout:
            object.__setattr__(self, "implementation", 1)
        super().__post_init__()

    @property
    def config(self) -> GRUConfig:
        """Returns the `GRUConfig` of the GRU, with v1's activations."""
        return dataclasses.replace(
            super().config,
            activation=v1_activation(self.activation),
            recurrent_activation=v1_activation(self.recurrent_activation),
        )

    @nn.nowrap
    def get_config(self) -> Config:
        """Returns the config dict that TensorFlow 1 would write for this layer."""
        config = super().get_config() | {"implementation": self.implementation}
        if "time_major" in type(self).__dataclass_fields__:
            config["time_major"] = self.time_major
        if not config.get("zero_output_for_mask"):
            config.pop("zero_output_for_mask", None)
        return {name: _old_form(value) for name, value in config.items()}


def v1_activation(identifier: Activation | Mapping[str, object]) -> Activation:
    """Looks up an activation by TensorFlow 1's names."""
    named = activations.identify(identifier)
    return hard_sigmoid if named == "hard_sigmoid" else named


def masks_for(
    module: V1Module,
    name: str,
    shape: tuple[int, ...],
    rate: float,
    training: bool | None,
    count: int,
) -> Masks:
    """Returns cached dropout masks, or draws them: None, one array or a list of `count`."""
    if not rate:
        return None
    cached = module.get_variable(MASKS, name)
    if cached is not None:
        return cached
    dtype = module.dtype or module.param_dtype
    key = dropout_key(module, bool(training))
    if key is None:
        masks = [jnp.ones(shape, dtype)] * count
    else:
        masks = [dropout_mask(part, rate, shape, dtype) for part in jax.random.split(key, count)]
    return masks[0] if count == 1 else masks


def stacked_masks(module: V1Module, masks: Masks) -> jax.Array | None:
    """Turns v1's masks into `[1, b, n]` or, with implementation 1, `[3, b, n]`."""
    if masks is None:
        return None
    stacked = jnp.stack(masks if isinstance(masks, (list, tuple)) else [masks])
    return stacked if module.implementation == 1 else stacked[:1]


def _old_form(value: object) -> object:
    """Turns Keras 3's serialised objects into TensorFlow 1's."""
    if isinstance(value, dict) and "registered_name" in value:
        return {"class_name": value["class_name"], "config": value["config"]}
    return value
