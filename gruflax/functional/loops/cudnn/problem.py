"""The description of a call of cuDNN, and the sizes of the memory that it needs."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The choices that cuDNN leaves to its caller, which change the speed and not the results.

    No public function takes them; only timings on a GPU vary them.

    Attributes:
        algorithm: "standard", "persist_static", "persist_dynamic" or "persist_static_small_h".
        math: "default", "tensor_op" or "fma"; None follows the dtype and the precision.
        packed: whether sequences are described as packed; the data are the same, because all
            sequences have one length.
    """

    algorithm: str = "standard"
    math: str | None = None
    packed: bool = False


class Problem(NamedTuple):
    """The sizes, the dtype and the settings of a call; hashable.

    Attributes:
        time: number of steps.
        batch: number of sequences.
        features: size of an input step.
        units: size of the state.
        dtype: "float32", "float64", "float16" or "bfloat16".
        tensor_cores: whether float32 products may be computed in TF32.
        training: whether the backward pass will follow.
        settings: the choices that cuDNN leaves to its caller.
    """

    time: int
    batch: int
    features: int
    units: int
    dtype: str
    tensor_cores: bool = True
    training: bool = False
    settings: Settings = Settings()


class Sizes(NamedTuple):
    """The memory that a call needs, in bytes.

    Attributes:
        weights: the weight space.
        offsets: of the matrices [u, f] or [u, u] and then of the biases [u] in the weight space,
            first those of the input and then those of the state, each in cuDNN's order r, z, h.
        workspace: scratch memory of a call.
        reserve: memory that the forward pass fills for the backward pass.
    """

    weights: int
    offsets: tuple[int, ...]
    workspace: int
    reserve: int
