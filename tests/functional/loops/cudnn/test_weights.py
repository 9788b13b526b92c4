"""Parameters in cuDNN's weight space."""

import pathlib

import jax
import numpy as np
from numpy_cudnn import NumpyCudnn

import gruflax
from gruflax import convert
from gruflax.functional.loops.cudnn.problem import Problem, Sizes
from gruflax.functional.loops.cudnn.weight_space import pack, unpack


GOLDEN = pathlib.Path(__file__).parents[3] / "golden" / "torch213.npz"


def test_there_and_back():
    problem = Problem(1, 1, 3, 4, "float32")
    sizes = NumpyCudnn().sizes(problem)
    params = gruflax.init_gru_params(
        jax.random.key(0), 3, 4, bias_initializer=jax.nn.initializers.normal(1.0)
    )
    weights = pack(params, sizes)
    assert weights.nbytes == sizes.weights
    jax.tree.map(np.testing.assert_array_equal, unpack(weights, problem, sizes), params)


def test_the_order_is_that_of_torch():
    """torch hands its own matrices to cuDNN, one after the other."""
    with np.load(GOLDEN) as file:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell = {name: file[f"cell/{name}"] for name in names}
    pieces = [piece for name in names for piece in np.split(cell[name], 3)]
    ends = np.cumsum([piece.nbytes for piece in pieces])
    sizes = Sizes(int(ends[-1]), (0, *map(int, ends[:-1])), 0, 0)
    wanted = np.concatenate([piece.reshape(-1) for piece in pieces])
    np.testing.assert_array_equal(pack(convert.from_torch(cell), sizes), wanted)
