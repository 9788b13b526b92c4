"""The README's examples run as they stand."""

import pathlib
import re

import jax
import numpy as np
import oracle
import pytest
from flax import linen as nn

import gruflax


README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def names():
    """What the README's examples define, run one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 8
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_examples_run(names):
    assert names["logits"].shape == (32, 9)
    assert names["outputs"].shape == (32, 29, 64) and names["h"].shape == (32, 64)


def test_weights_of_linen(names):
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    rnn = nn.RNN(nn.GRUCell(5, bias_init=nn.initializers.normal(1.0)))
    wanted, variables = rnn.init_with_output(jax.random.key(0), x)
    params = names["from_linen"](variables["params"]["cell"])
    np.testing.assert_allclose(gruflax.gru_sequence(params, x)[0], wanted, atol=1e-6)


def test_weights_of_torch(names):
    """By torch's equations: r, z and n by rows, `h' = (1 - z) n + z h`."""
    random = np.random.default_rng(0)
    shapes = {"weight_ih": (15, 4), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,)}
    weights = {f"{name}_l0": random.normal(size=shape) for name, shape in shapes.items()}
    x, h = random.normal(size=(3, 1, 4)), random.normal(size=(3, 5))
    inner = np.split(x[:, 0] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"], 3, axis=-1)
    outer = np.split(h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"], 3, axis=-1)
    r, z = (1 / (1 + np.exp(-a - b)) for a, b in zip(inner[:2], outer[:2], strict=True))
    wanted = (1 - z) * np.tanh(inner[2] + r * outer[2]) + z * h
    _, state = oracle.numpy_gru(names["from_torch"](weights), x, h)
    np.testing.assert_allclose(state, wanted, atol=1e-12)
