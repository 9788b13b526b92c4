"""cuDNN's place is taken by NumPy, so that all but its own calls runs on a CPU."""

import numpy as np
import pytest
from numpy_cudnn import NumpyCudnn


PLACE = "gruflax.functional.loops.cudnn"


@pytest.fixture
def cudnn(monkeypatch):
    """A NumPy cuDNN on a platform that passes for one with a GPU."""
    reference = NumpyCudnn()
    for module in ("calls", "loop"):
        monkeypatch.setattr(f"{PLACE}.{module}.load_cudnn", lambda: reference)
    monkeypatch.setattr(f"{PLACE}.calls._stream", lambda context: 0)
    monkeypatch.setattr(f"{PLACE}.calls._address", lambda buffer: np.asarray(buffer).ctypes.data)
    monkeypatch.setattr(f"{PLACE}.conditions._platform_conditions", dict)
    return reference
