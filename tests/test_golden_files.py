"""The golden arrays that can be made again today are made again, a few of them."""

import importlib.util
import pathlib

import jax
import numpy as np
import oracle
import pytest


SCRIPT = pathlib.Path(__file__).parent / "golden" / "make_keras.py"
CASES = (
    "math_ra0_ub1_impl2",
    "math_ra1_ub0_impl1",
    "mask_gaps_ra1_h1_back0",
    "mask_left_ra0_h0_back1",
    "back_ra1",
    "act_softsign_tanh_ra1",
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_keras", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_keras_gives_the_recorded_arrays(case, script):
    recorded = oracle.golden("keras3151_jax")[case]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        made = script.make_case(case)
    assert set(made) == set(recorded)
    for name, array in made.items():
        # Sums of float32 in another order.
        scale = 1e-5 * max(1.0, np.abs(recorded[name]).max())
        np.testing.assert_allclose(array, recorded[name], atol=scale, err_msg=name)
