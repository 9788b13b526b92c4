"""When a GRU can run in cuDNN."""

import jax

from gruflax.functional.activations import get_activation
from gruflax.functional.config import GRUConfig
from gruflax.functional.cudnn.library import has_cudnn
from gruflax.functional.dropout import DropoutMasks


USE_CUDNN = ("auto", True, False)


def unmet_cudnn_conditions(
    config: GRUConfig, masks: DropoutMasks, *, unroll: bool, resets: bool
) -> list[str]:
    """Lists what keeps a GRU from running in cuDNN.

    Args:
        config: the GRU.
        masks: its dropout masks.
        unroll: whether a Python loop is asked for.
        resets: whether the state starts anew within a sequence.

    Returns:
        A clause for each unmet condition.

    Source: the conditions that Keras' `GRU` lists for its cuDNN path, but for the one that a mask
    be right-padded: any mask will do here.
    """
    conditions = {
        "activation must be 'tanh'": get_activation(config.activation) is get_activation("tanh"),
        "recurrent_activation must be 'sigmoid'": (
            get_activation(config.recurrent_activation) is get_activation("sigmoid")
        ),
        "use_bias must be True": config.use_bias,
        "reset_after must be True": config.reset_after,
        "recurrent_dropout must be 0": config.recurrent_dropout == 0 and masks.recurrent is None,
        "dropout must have one mask for all gates, as with implementation 2": (
            masks.inputs is None or masks.inputs.shape[0] == 1
        ),
        "zoneout must be 0": config.zoneout == 0,
        "unroll must be False": not unroll,
        "reset must be None": not resets,
        **_platform_conditions(),
    }
    return [clause for clause, met in conditions.items() if not met]


def _platform_conditions() -> dict[str, bool]:
    platform = jax.default_backend()
    return {
        f"the platform must be a GPU, it is {platform!r}": platform == "gpu",
        "cuDNN 9 must be installed": has_cudnn(),
    }


def check_cudnn(config: GRUConfig, masks: DropoutMasks, *, unroll: bool, resets: bool) -> None:
    """Checks that a GRU can run in cuDNN.

    Args: those of `unmet_cudnn_conditions`.

    Raises:
        ValueError: it cannot; the message names each unmet condition.
    """
    unmet = unmet_cudnn_conditions(config, masks, unroll=unroll, resets=resets)
    if unmet:
        raise ValueError(f"loop='cudnn' or use_cudnn=True cannot be met: {'; '.join(unmet)}.")


def loop_for(use_cudnn: bool | str, loop: str) -> str:
    """Translates Keras' `use_cudnn`.

    Args:
        use_cudnn: True asks for cuDNN; "auto" and False leave the choice to `loop`.
        loop: as of `gru_sequence`.

    Returns:
        The loop to ask for.

    Raises:
        ValueError: another value.
    """
    if use_cudnn not in USE_CUDNN:
        raise ValueError(f"use_cudnn must be one of {USE_CUDNN}, got {use_cudnn!r}.")
    return "cudnn" if use_cudnn is True else loop
