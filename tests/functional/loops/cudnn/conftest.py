"""Where there is no GPU, NumPy takes cuDNN's place: all but its own calls runs on a CPU."""

import jax
import pytest
from numpy_cudnn import NumpyCudnn, RecordedCudnn, in_place_of_cudnn


@pytest.fixture
def cudnn():
    """cuDNN on a GPU, elsewhere a NumPy cuDNN; `calls` lists what was called."""
    stand_in = RecordedCudnn() if jax.default_backend() == "gpu" else NumpyCudnn()
    with in_place_of_cudnn(stand_in):
        yield stand_in
