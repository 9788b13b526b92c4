"""The conditions under which a call can run in the kernel; `thresholds` says when it should."""

from jax import lax

from gruflax.functional.activations import get_activation, hard_sigmoid_v1
from gruflax.functional.call import Call
from gruflax.functional.config import Activation
from gruflax.functional.loops.native.library import native_info


# The order is that of `Activation` in kernel/problem.h, so that an index is the kernel's number.
_ACTIVATIONS = (
    "sigmoid",
    "tanh",
    "hard_sigmoid",
    hard_sigmoid_v1,
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "hard_tanh",
    "softsign",
)
# Two names may mean the same function, so the look-up is by function.
_FUNCTIONS = tuple(map(get_activation, _ACTIVATIONS))
_NAMES = ", ".join(repr(getattr(each, "__name__", each)) for each in _ACTIVATIONS)


def activation_number(activation: Activation) -> int:
    """Returns the kernel's number of an activation, -1 if the kernel does not have it."""
    function = get_activation(activation)
    return _FUNCTIONS.index(function) if function in _FUNCTIONS else -1


def unmet_conditions(call: Call, *, unroll: bool = False) -> list[str]:
    """Lists what keeps a call from running in the kernel, a clause for each condition."""
    config, info = call.config, native_info()
    conditions = {
        f"the kernel must be there: {info.reason}": info.available,
        f"activation must be one of {_NAMES}": activation_number(config.activation) >= 0,
        f"recurrent_activation must be one of {_NAMES}": (
            activation_number(config.recurrent_activation) >= 0
        ),
        "zoneout must be 0": config.zoneout == 0 and call.steps.zoneout_mask is None,
        "the dtype must have 16, 32 or 64 bits": call.steps.inputs.dtype.itemsize >= 2,
        "precision must be that of the dtype": not _is_reduced(call.precision),
        "sizes must not be symbols": all(isinstance(size, int) for size in call.steps.inputs.shape),
        "unroll must be False": not unroll,
    }
    return [clause for clause, met in conditions.items() if not met]


def check_native(call: Call, *, unroll: bool) -> None:
    """Raises a ValueError that names each unmet condition unless a call can run in the kernel."""
    unmet = unmet_conditions(call, unroll=unroll)
    if unmet:
        raise ValueError(f"loop='native' cannot be met: {'; '.join(unmet)}.")


# The presets that are as exact as the dtype.
_FULL = (lax.DotAlgorithmPreset.F32_F32_F32, lax.DotAlgorithmPreset.F64_F64_F64)


def _is_reduced(precision: lax.PrecisionLike) -> bool:
    """Returns whether a product on a CPU would be less exact than its dtype."""
    # A precision is for both factors or one for each, and is a name or a member of an enum.
    factors = precision if isinstance(precision, tuple) else (precision,)
    names = lax.DotAlgorithmPreset.__members__
    factors = [names.get(each, each) if isinstance(each, str) else each for each in factors]
    presets = [each for each in factors if isinstance(each, lax.DotAlgorithmPreset)]
    return any(each not in _FULL for each in presets) or isinstance(precision, lax.DotAlgorithm)
