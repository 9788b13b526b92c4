"""When a GRU can run in cuDNN."""

import jax

from gruflax.functional.call import Call
from gruflax.functional.loops.cudnn.library import has_cudnn


def unmet_conditions(call: Call, *, unroll: bool) -> list[str]:
    """Lists what keeps a call from running in cuDNN, a clause for each condition.

    Source: the conditions that Keras' `GRU` lists for its cuDNN path, but for the one that a mask
    be right-padded: any mask will do here.
    """
    config, masks = call.config, call.masks
    conditions = {
        "activation must be 'tanh'": config.activation == "tanh",
        "recurrent_activation must be 'sigmoid'": config.recurrent_activation == "sigmoid",
        "use_bias must be True": config.use_bias,
        "reset_after must be True": config.reset_after,
        "recurrent_dropout must be 0": config.recurrent_dropout == 0 and masks.recurrent is None,
        "dropout must have one mask for all gates, as with implementation 2": (
            masks.inputs is None or masks.inputs.shape[0] == 1
        ),
        "zoneout must be 0": config.zoneout == 0 and call.updated is None,
        "unroll must be False": not unroll,
        "reset must be None": call.reset is None,
        **_platform_conditions(),
    }
    return [clause for clause, met in conditions.items() if not met]


def check_cudnn(call: Call, *, unroll: bool) -> None:
    """Raises a ValueError that names each unmet condition unless a call can run in cuDNN."""
    unmet = unmet_conditions(call, unroll=unroll)
    if unmet:
        raise ValueError(f"loop='cudnn' or use_cudnn=True cannot be met: {'; '.join(unmet)}.")


def _platform_conditions() -> dict[str, bool]:
    platform = jax.default_backend()
    return {
        f"the platform must be a GPU, it is {platform!r}": platform == "gpu",
        "cuDNN 9 must be installed": has_cudnn(),
    }
