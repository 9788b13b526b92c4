"""Keras 2: how its configs and files are told from those of Keras 3, and what its names mean.

Keras 2 is whatever came before Keras 3: Keras up to 2.15, tf.keras of TensorFlow 1 and 2, tf-keras.
"""

from collections.abc import Collection, Mapping
from typing import Any

from gruflax.functional.activations import hard_sigmoid_v1
from gruflax.functional.checks import brief
from gruflax.keras_names import activations


# Every GRU and GRUCell of Keras 2 writes the first of these into its config, tf.keras' GRU both.
_OLD_ARGUMENTS = {"implementation", "time_major"}

# Every GRU and GRUCell of Keras 3 and of gruflax writes this, whatever else; none of Keras 2 does.
_NEW_ARGUMENT = "seed"

# The names that Keras 3 gives to another function. All others that both have are the same: gelu is
# exact in both, and the slope of leaky_relu 0.2.
_MEANINGS = {"hard_sigmoid": hard_sigmoid_v1}


def has_arguments(names: Collection[str]) -> bool:
    """Returns whether a GRU or GRUCell that has arguments of these names is one of Keras 2.

    Args:
        names: a config, or the names in it; a few of them by hand are as in Keras 3 unless one is
            Keras 2's alone.
    """
    return _NEW_ARGUMENT not in names and not _OLD_ARGUMENTS.isdisjoint(names)


def is_version(version: str | bytes | None) -> bool:
    """Returns whether the `keras_version` of an HDF5 file is before 3; Keras 1 wrote None.

    Raises:
        ValueError: it does not begin with a number.
    """
    text = version.decode("utf8", "replace") if isinstance(version, bytes) else str(version or "1")
    major = text.partition(".")[0]
    if not major.isdecimal():
        raise ValueError(f"keras_version must be like '2.11.0', got {brief(version)}.")
    return int(major) < 3


def meant(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Writes arguments of Keras 2 such that they mean the same here; callables are what they are.

    Raises:
        ValueError: an activation's name is unknown, or its config malformed.
    """
    found = dict(arguments)
    for field in ("activation", "recurrent_activation"):
        if isinstance(found.get(field), (str, Mapping)):
            name = activations.identify(found[field], field)
            found[field] = _MEANINGS.get(str(name), name)
    return found
