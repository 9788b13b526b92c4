"""The conditions under which a call can run in cuDNN."""

import jax
import jax.numpy as jnp

from gruflax.functional.call import Call
from gruflax.functional.loops.cudnn.library import has_cudnn, load_cudnn


# cuDNN refuses longer sequences.
_MOST_STEPS = 65_535
# The lowest version of cuDNN and the lowest compute capability for a GRU in bfloat16.
_BFLOAT16_VERSION, _BFLOAT16_CAPABILITY = 91300, 8.0


def unmet_conditions(call: Call, *, unroll: bool) -> list[str]:
    """Lists what keeps a call from running in cuDNN, a clause for each condition.

    Sources: the conditions that Keras' `GRU` lists for its cuDNN path, except that masks need not
    be right-padded here; cuDNN's documentation of `cudnnSetRNNDescriptor_v8` and
    `cudnnSetRNNDataDescriptor`, and the checks that cuDNN makes itself.
    """
    config, masks, sizes = call.config, call.masks, call.steps.inputs.shape
    conditions = {
        "activation must be 'tanh'": config.activation == "tanh",
        "recurrent_activation must be 'sigmoid'": config.recurrent_activation == "sigmoid",
        "use_bias must be True": config.use_bias,
        "reset_after must be True": config.reset_after,
        "recurrent_dropout must be 0": config.recurrent_dropout == 0 and masks.recurrent is None,
        "dropout must have one mask for all gates, as with implementation 2": (
            masks.inputs is None or masks.inputs.shape[0] == 1
        ),
        "zoneout must be 0": config.zoneout == 0 and call.steps.zoneout_mask is None,
        "unroll must be False": not unroll,
        "reset must be None": call.steps.reset is None,
        "sizes must not be symbols": all(isinstance(size, int) for size in sizes),
        f"there must be at most {_MOST_STEPS:,} steps": (
            not isinstance(call.time, int) or call.time <= _MOST_STEPS
        ),
        **_platform_conditions(call.steps.inputs.dtype),
    }
    return [clause for clause, met in conditions.items() if not met]


def check_cudnn(call: Call, *, unroll: bool) -> None:
    """Raises a ValueError that names each unmet condition unless a call can run in cuDNN."""
    unmet = unmet_conditions(call, unroll=unroll)
    if unmet:
        raise ValueError(f"loop='cudnn' or use_cudnn=True cannot be met: {'; '.join(unmet)}.")


def _platform_conditions(dtype: jnp.dtype) -> dict[str, bool]:
    gpus = _gpus()
    there = {
        "the platform must be a GPU, and JAX finds none": bool(gpus),
        "cuDNN 9 must be installed": has_cudnn(),
    }
    if dtype != jnp.bfloat16 or not all(there.values()):
        return there
    version = load_cudnn().version
    capability = min((gpu.compute_capability for gpu in gpus), key=float)
    enough = version >= _BFLOAT16_VERSION and float(capability) >= _BFLOAT16_CAPABILITY
    clause = "bfloat16 must have cuDNN 9.13 and compute capability 8.0 or later"
    return {f"{clause}, got cuDNN {version} and {capability}": enough}


def _gpus() -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]
    try:
        return jax.local_devices(backend="gpu")
    except RuntimeError:
        return []
