"""The description of a cuDNN call, and the memory that it needs."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The choices that cuDNN leaves to its caller, of speed and not of numbers.

    No public function takes it: it is varied only where a GPU is timed.

    Attributes:
        algorithm: "standard", "persist_static", "persist_dynamic" or "persist_static_small_h".
        math: "default", "tensor_op" or "fma"; None follows the dtype and the precision.
        packed: whether sequences are described as packed; all are of one length, so that the data
            are the same.
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
        reserve: what the forward pass leaves for the backward pass.
    """

    weights: int
    offsets: tuple[int, ...]
    workspace: int
    reserve: int
