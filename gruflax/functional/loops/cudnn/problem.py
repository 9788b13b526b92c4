"""What a cuDNN call is prepared for, and the memory it asks for."""

from typing import NamedTuple


class Settings(NamedTuple):
    """What cuDNN leaves to its caller: the same numbers, at another speed.

    Nobody's argument: varied only where a GPU is timed.

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
    """What a call is prepared for: hashable.

    Attributes:
        time: number of steps.
        batch: number of sequences.
        features: size of an input step.
        units: size of the state.
        dtype: "float32", "float64", "float16" or "bfloat16".
        tensor_cores: whether float32 products may be computed in TF32.
        training: whether the backward pass will follow.
        settings: how it is computed.
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
    """What cuDNN asks for, in bytes.

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
