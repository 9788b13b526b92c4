"""When the kernel runs, what is said where it cannot, and what tells whether it is there."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gruflax
from gruflax.functional.activations import hard_sigmoid_v1
from gruflax.functional.call import make_call
from gruflax.functional.loops.native.conditions import (
    gradients_run_well,
    runs_well,
    unmet_conditions,
)
from gruflax.functional.loops.native.library import native_info


needs_kernel = pytest.mark.skipif(
    not native_info().available, reason=f"no native loop: {native_info().reason}"
)
X = np.ones((2, 3, 4), np.float32)

# What is unmet: the configuration and the call.
UNMET = {
    "activation must be one of": ({"activation": "gelu"}, {}),
    "recurrent_activation must be one of": ({"recurrent_activation": jnp.sin}, {}),
    "zoneout must be 0": ({"zoneout": 0.1}, {}),
    "the dtype must be float32 or float64, it is bfloat16": ({}, {"dtype": "bfloat16"}),
    "precision must be that of the dtype": (
        {},
        {"precision": lax.DotAlgorithmPreset.BF16_BF16_F32},
    ),
}


def call_of(options, arguments, shape=X.shape, units=5):
    config = gruflax.GRUConfig(**options)
    # Only sizes count, and an orthogonal matrix of many units takes long.
    zeros = {"recurrent_initializer": jax.nn.initializers.zeros}
    params = gruflax.init_gru_params(jax.random.key(0), shape[-1], units, config, **zeros)
    return make_call(params, jnp.ones(shape), config=config, **arguments)


@needs_kernel
@pytest.mark.parametrize("clause", UNMET)
def test_one_unmet(clause):
    (found,) = unmet_conditions(call_of(*UNMET[clause]))
    assert found.startswith(clause)


@needs_kernel
@pytest.mark.parametrize("activation", ["tanh", "linear", None, "relu", "softsign", "leaky_relu"])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", hard_sigmoid_v1, jax.nn.sigmoid])
def test_all_met(activation, gate):
    options = {"activation": activation, "recurrent_activation": gate, "recurrent_dropout": 0.1}
    assert unmet_conditions(call_of(options, {"rng": jax.random.key(0)})) == []


@needs_kernel
def test_an_error_names_each_unmet_condition():
    config = gruflax.GRUConfig(activation="gelu", zoneout=0.1)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5, config)
    run = functools.partial(gruflax.gru_sequence, params, X, config=config)
    with pytest.raises(ValueError, match=r"loop='native' cannot be met: activation .*; zoneout"):
        run(loop="native")
    with pytest.raises(ValueError, match="unroll must be False"):
        run(loop="native", unroll=True)
    # "auto" takes another loop and says nothing.
    jax.tree.map(np.testing.assert_array_equal, run(), run(loop="chunked"))


@needs_kernel
def test_wide_layers_with_few_rows_stay_with_the_chunked_loop():
    few, some, many = (call_of({}, {}, (rows, 5, 512), 1024) for rows in (1, 16, 64))
    assert [runs_well(call) for call in (few, some, many)] == [False, True, True]
    assert [gradients_run_well(call) for call in (few, some, many)] == [False, False, True]
    small = call_of({}, {}, (1, 5, 16), 32)
    assert runs_well(small) and gradients_run_well(small)


def in_new_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


TELL = "import gruflax; print(*gruflax.native_info(), sep='|')"


def test_it_can_be_turned_off():
    code = (
        TELL
        + """
import jax, jax.numpy as jnp
params = gruflax.init_gru_params(jax.random.key(0), 4, 5)
print(gruflax.gru_sequence(params, jnp.ones((2, 3, 4)))[0].shape)
try:
    gruflax.gru_sequence(params, jnp.ones((2, 3, 4)), loop="native")
except ValueError as error:
    print(error)
"""
    )
    printed = in_new_process(code, GRUFLAX_NATIVE="0").stdout.splitlines()
    reason = "GRUFLAX_NATIVE=0 turns it off"
    assert printed[0] == f"False|None|{reason}" and printed[1] == "(2, 3, 5)"
    assert printed[2] == f"loop='native' cannot be met: the kernel must be there: {reason}."


@needs_kernel
def test_the_instructions_can_be_chosen():
    printed = in_new_process(TELL, GRUFLAX_NATIVE="baseline").stdout
    assert printed.strip() == "True|baseline|None"
    found = in_new_process(TELL, GRUFLAX_NATIVE="mmx")
    assert "GRUFLAX_NATIVE must be 0, or instructions that this CPU has, got 'mmx'" in found.stderr


def test_threads_that_ask_first_at_once_get_one_answer():
    code = """
import concurrent.futures, gruflax
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(len(set(pool.map(lambda _: gruflax.native_info(), range(64)))))
"""
    assert in_new_process(code).stdout.strip() == "1"


@needs_kernel
def test_a_checkout_finds_what_was_installed_from_it(tmp_path):
    """Where Python takes the sources from the folder it runs in, the library is the package's."""
    sources = pathlib.Path(gruflax.__file__).parent
    shutil.copytree(sources, tmp_path / "gruflax", ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    code = "import gruflax.functional as f; print(f.__file__)\n" + TELL
    # -S and the paths by hand, for an editable installation would go before.
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if "packages" in path)])
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert found[0].startswith(str(tmp_path)) and found[1].startswith("True|")


def test_what_is_said_is_whole():
    info = gruflax.native_info()
    assert info.available == (info.instruction_set is not None) == (info.reason is None)
