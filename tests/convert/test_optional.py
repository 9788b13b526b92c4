"""What is imported when: only what a caller hands over, or asks for."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import gruflax
from gruflax import convert


OTHERS = ("keras", "tensorflow", "torch", "haiku", "equinox", "onnx", "h5py", "safetensors")


def test_nothing_is_imported():
    """Arrays go in and out of every library that has a state as arrays, without the library."""
    program = f"""
import sys
import numpy as np
for name in {OTHERS}:
    sys.modules[name] = None
from gruflax import convert
random = np.random.default_rng(0)
draw = lambda *shape: random.normal(size=shape).astype(np.float32)
params = {{"kernel": draw(4, 15), "recurrent_kernel": draw(5, 15), "bias": draw(2, 15)}}
params["bias"][1, 10:] = 0
for name in ("flax_linen", "flax_nnx", "equinox", "torch"):
    back = getattr(convert, "from_" + name)(getattr(convert, "to_" + name)(params))
    np.testing.assert_array_equal(back["recurrent_kernel"], params["recurrent_kernel"])
before = params | {{"bias": draw(15)}}
np.testing.assert_array_equal(convert.from_haiku(convert.to_haiku(before))["bias"], before["bias"])
convert.from_keras(convert.to_keras(params))
print("converted")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "converted\n", done.stderr


def test_what_is_missing_is_named(monkeypatch, tmp_path, x, drawn):
    gru = gruflax.GRU(5)
    variables = drawn(gru.init(jax.random.key(0), x))
    path = tmp_path / "file.h5"
    path.write_bytes(np.zeros(3).tobytes())
    for module, call in (
        ("h5py", lambda: convert.from_keras(path)),
        ("onnx", lambda: convert.to_onnx(gru, variables)),
        ("onnx", lambda: convert.from_onnx(path)),
        ("safetensors", lambda: convert.save_safetensors(path, variables)),
        ("safetensors", lambda: convert.load_safetensors(path)),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            patch.delitem(sys.modules, f"{module}.numpy", raising=False)
            with pytest.raises(
                ImportError,
                match=rf"{module}: pip install {module}, or gruflax with its extra .convert",
            ):
                call()
