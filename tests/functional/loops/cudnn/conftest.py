"""Where there is no GPU, NumPy takes cuDNN's place: all but its own calls runs on a CPU."""

import contextlib

import jax
import pytest
from numpy_cudnn import NumpyCudnn, RecordedCudnn, in_place_of_cudnn


@pytest.fixture
def cudnn():
    """cuDNN on a GPU, elsewhere a NumPy cuDNN; `calls` lists what was called."""
    gpu = jax.default_backend() == "gpu"
    # Elsewhere full precision is what there is; a GPU multiplies float32 in TF32 unless it is told.
    precision = jax.default_matmul_precision("highest") if gpu else contextlib.nullcontext()
    with in_place_of_cudnn(RecordedCudnn() if gpu else NumpyCudnn()) as stand_in, precision:
        yield stand_in
