"""The README's examples run as they stand."""

import pathlib
import re

import jax


README = pathlib.Path(__file__).parents[1] / "README.md"


def test_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert names["logits"].shape == (32, 9)
    assert names["outputs"].shape == (32, 29, 64) and names["h"].shape == (32, 64)
