"""What a cuDNN call is prepared for, and the memory it asks for."""

from typing import NamedTuple


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
    """

    time: int
    batch: int
    features: int
    units: int
    dtype: str
    tensor_cores: bool = True
    training: bool = False


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
