"""cuDNN's place is taken by NumPy, so that all but its own calls runs on a CPU."""

import numpy as np
import pytest
from numpy_cudnn import NumpyCudnn


@pytest.fixture
def cudnn(monkeypatch):
    """A NumPy cuDNN on a platform that passes for one with a GPU."""
    reference = NumpyCudnn()
    for module in ("calls", "loop"):
        monkeypatch.setattr(f"gruflax.functional.cudnn.{module}.load_cudnn", lambda: reference)
    calls = "gruflax.functional.cudnn.calls."
    monkeypatch.setattr(calls + "_stream", lambda context: 0)
    monkeypatch.setattr(calls + "_address", lambda buffer: np.asarray(buffer).ctypes.data)
    conditions = "gruflax.functional.cudnn.conditions._platform_conditions"
    monkeypatch.setattr(conditions, dict)
    return reference
