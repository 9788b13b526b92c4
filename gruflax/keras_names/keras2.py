"""Keras 2 and 1: how to recognize their configs and files, and what their names mean.

"Keras 2" stands for everything before Keras 3: Keras up to 2.15, tf.keras of TensorFlow 1 and 2,
and tf-keras.
"""

from collections.abc import Collection, Mapping
from typing import Any

from gruflax.functional.activations import hard_sigmoid_v1
from gruflax.functional.checks import brief
from gruflax.keras_names import activations


# Every GRU and GRUCell of Keras 2 writes "implementation" into its config, and the GRU of tf.keras
# writes both.
_OLD_ARGUMENTS = {"implementation", "time_major"}

# Every GRU and GRUCell of Keras 3 and of gruflax writes this into its config, and none of Keras 2.
_NEW_ARGUMENT = "seed"

# Names that mean another function in Keras 3, and what they mean in Keras 2. All other names mean
# the same in both: gelu is exact, and leaky_relu has the slope 0.2.
_MEANINGS = {"hard_sigmoid": hard_sigmoid_v1}

# The names of arguments of Keras 1, and those of today.
_KERAS_1 = {
    "output_dim": "units",
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "inner_activation": "recurrent_activation",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
}


def has_arguments(names: Collection[str]) -> bool:
    """Returns whether the config of a GRU or GRUCell was written by Keras 2.

    Args:
        names: the config, or the names in it. A config that somebody wrote by hand is taken for one
            of Keras 3 unless it has an argument that only Keras 2 has.
    """
    return _NEW_ARGUMENT not in names and not _OLD_ARGUMENTS.isdisjoint(names)


def is_version(version: str | bytes | None) -> bool:
    """Returns whether the `keras_version` of an HDF5 file is before 3; None is Keras 1.

    Raises:
        ValueError: the version does not begin with a number.
    """
    text = version.decode("utf8", "replace") if isinstance(version, bytes) else str(version or "1")
    major = text.partition(".")[0]
    if not major.isdecimal():
        raise ValueError(f"keras_version must be like '2.11.0', got {brief(version)}.")
    return int(major) < 3


def meant(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Replaces the names of activations in arguments of Keras 2 by what they mean there.

    Raises:
        ValueError: the name of an activation is unknown, or its config is malformed.
    """
    found: dict[str, Any] = dict(arguments)
    for field in ("activation", "recurrent_activation"):
        if isinstance(found.get(field), (str, Mapping)):
            name = activations.identify(found[field], field)
            found[field] = _MEANINGS.get(str(name), name)
    return found


def from_keras_1(config: Mapping[str, object]) -> dict[str, Any]:
    """Gives the arguments in the config of a GRU of Keras 1 their names in Keras 2.

    Configs of later releases are returned as they are.
    """
    if "output_dim" not in config:
        return dict(config)
    unneeded = ("consume_less", "input_dtype")
    found = {_KERAS_1.get(key, key): config[key] for key in config if key not in unneeded}
    for name, value in found.items():
        if name.endswith("_regularizer") and isinstance(value, Mapping):
            factors = {key: value[key] for key in ("l1", "l2") if key in value}
            found[name] = {"class_name": "L1L2", "config": factors}
    return found | {"implementation": 1}
