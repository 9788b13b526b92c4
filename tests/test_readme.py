"""The README's examples run as they stand."""

import contextlib
import pathlib
import re

import jax
import numpy as np


README = pathlib.Path(__file__).parents[1] / "README.md"


def run_examples(folder):
    """Returns what the README's examples define, run one after the other in an empty folder."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 16
    names = {}
    with (
        contextlib.chdir(folder),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_examples_run(tmp_path):
    names = run_examples(tmp_path)
    assert names["logits"].shape == (32, 9)
    assert names["outputs"].shape == (32, 29, 64)

    # Layers go through transformations.
    assert names["answers"].shape == (5, 32, 29, 12)
    model, x = names["Deep"](), names["x"]
    variables = model.init(jax.random.key(0), x)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables)} == {4}
    assert model.apply(variables, x).shape == (32, 29, 12)

    # Checkpoints and deployment.
    assert names["variables"]["recurrent_state"]["h"].shape[-1] == 64
    outputs, h = names["gru"].apply(names["params"], names["x"])
    np.testing.assert_allclose(names["outputs"], outputs, atol=1e-6)
    assert names["output"].shape == (1, 1, 64) and names["h"].shape == (1, 64)
