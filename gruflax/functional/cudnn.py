"""When a GRU could run as one cuDNN call."""

import jax

from gruflax.functional.activations import get_activation
from gruflax.functional.config import GRUConfig


USE_CUDNN = ("auto", True, False)


def unmet_cudnn_conditions(config: GRUConfig, *, unroll: bool, masked: bool) -> list[str]:
    """Lists what keeps a GRU from running in cuDNN.

    Args:
        config: the GRU.
        unroll: whether a Python loop is asked for.
        masked: whether a boolean mask is given, which may not be right-padded.

    Returns:
        A clause for each unmet condition.

    Source: the conditions that Keras' `GRU` lists for its cuDNN path.
    """
    conditions = {
        "activation must be 'tanh'": get_activation(config.activation) is get_activation("tanh"),
        "recurrent_activation must be 'sigmoid'": (
            get_activation(config.recurrent_activation) is get_activation("sigmoid")
        ),
        "use_bias must be True": config.use_bias,
        "reset_after must be True": config.reset_after,
        "recurrent_dropout must be 0": config.recurrent_dropout == 0,
        "zoneout must be 0": config.zoneout == 0,
        "unroll must be False": not unroll,
        "a mask must be given as seq_lengths, which are right-padded": not masked,
        f"the platform must be a GPU, it is {jax.default_backend()!r}": (
            jax.default_backend() == "gpu"
        ),
        # JAX binds cuDNN's LSTM only.
        "the installed JAX must have a cuDNN GRU": False,
    }
    return [clause for clause, met in conditions.items() if not met]


def check_use_cudnn(
    use_cudnn: bool | str, config: GRUConfig, *, unroll: bool, masked: bool
) -> None:
    """Checks Keras' `use_cudnn`: "auto" and False leave the choice of the loop to gruflax.

    Args:
        use_cudnn: "auto", True or False.
        config: the GRU.
        unroll: whether a Python loop is asked for.
        masked: whether a boolean mask is given.

    Raises:
        ValueError: another value; or True, naming each unmet condition.
    """
    if use_cudnn not in USE_CUDNN:
        raise ValueError(f"use_cudnn must be one of {USE_CUDNN}, got {use_cudnn!r}.")
    unmet = unmet_cudnn_conditions(config, unroll=unroll, masked=masked)
    if use_cudnn is True and unmet:
        raise ValueError(f"use_cudnn=True cannot be met: {'; '.join(unmet)}.")
