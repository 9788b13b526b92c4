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
from gruflax.functional.loops.native.conditions import unmet_conditions
from gruflax.functional.loops.native.library import native_info
from gruflax.functional.loops.thresholds import gradients_run_well, keeps_gates, runs_well


needs_kernel = pytest.mark.skipif(
    not native_info().available, reason=f"no native loop: {native_info().reason}"
)
X = np.ones((2, 3, 4), np.float32)

# What is unmet: the configuration and the call.
UNMET = {
    "activation must be one of": ({"activation": "gelu"}, {}),
    "recurrent_activation must be one of": ({"recurrent_activation": jnp.sin}, {}),
    "zoneout must be 0": ({"zoneout": 0.1}, {}),
    "precision must be that of the dtype": (
        {},
        {"precision": lax.DotAlgorithmPreset.BF16_BF16_F32},
    ),
    "precision must be that of the dtype.": ({}, {"precision": "BF16_BF16_F32"}),
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
    assert found.startswith(clause.rstrip("."))


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


def explained(options=None, arguments=None, shape=X.shape, units=5, **more):
    call = call_of(options or {}, {}, shape, units)
    inputs = jnp.ones(shape)
    return gruflax.explain_loop(
        call.params, inputs, config=call.config, **(arguments or {}), **more
    )


@needs_kernel
def test_what_runs_can_be_asked():
    assert explained() == ("native", "native", ())
    assert explained(loop="chunked") == ("chunked", "chunked", ("Not native: loop is 'chunked'.",))
    # Arrays are arguments, too, and a program may be traced meanwhile.
    options = {"mask": X[..., 0] > 0, "rng": jax.random.key(0), "return_sequences": False}
    asked = []
    jax.jit(lambda x: asked.append(explained(arguments=options)) or x)(X)
    assert asked[0].forward == "native"
    assert explained({"zoneout": 0.1}, {"rng": jax.random.key(0)}) == (
        "chunked",
        "chunked",
        ("Not native: zoneout must be 0.",),
    )
    found = explained({"activation": "gelu"})
    assert found[:2] == ("chunked", "chunked") and "activation must be one of" in found.reasons[0]
    found = explained({"activation": jax.nn.softmax})
    assert found[:2] == ("scan", "scan") and found.reasons[1].startswith("Not chunked: the act")
    found = explained(unroll=True)
    assert found[:2] == ("unrolled", "unrolled") and found.reasons == (
        "Not native: unroll must be False.",
    )
    assert explained(shape=(2, 1, 4)).reasons == ("Not native: there is at most one step.",)
    few = explained(shape=(1, 5, 512), units=1024)
    assert few[:2] == ("chunked", "chunked") and len(few.reasons) == 2
    some = explained(shape=(16, 5, 512), units=1024)
    assert some[:2] == ("native", "chunked") and some.reasons[0].startswith("Not native backward")
    assert explained(shape=(1, 5, 512), units=1024, loop="native") == ("native", "native", ())
    # Nested lists, and types in place of arrays.
    params = call_of({}, {}).params
    assert gruflax.explain_loop(params, X.tolist(), mask=[[True] * 3] * 2)[0] == "native"
    types = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert gruflax.explain_loop(types, jax.ShapeDtypeStruct(X.shape, X.dtype))[0] == "native"
    elsewhere = explained(platform="gpu")
    assert elsewhere[:2] == ("chunked", "chunked") and "on a gpu" in elsewhere.reasons[0]


def test_what_cannot_be_asked():
    with pytest.raises(TypeError, match=r"explain_loop has no arguments \['masks'\]"):
        explained(masks=X[..., 0] > 0)
    with pytest.raises(ValueError, match="loop must be one of"):
        explained(loop="fast")
    with pytest.raises(ValueError, match=r"platform must be one of \('cpu', 'gpu', 'tpu'\)"):
        explained(platform="cuda")
    with pytest.raises(ValueError, match="chunk must be"):
        explained(arguments={"chunk": 0})
    with pytest.raises(TypeError, match="remat must be a Python bool"):
        explained(arguments={"remat": "x"})
    with pytest.raises(TypeError, match="unroll must be a Python bool"):
        explained(unroll=1)
    with pytest.raises(ValueError, match="seq_lengths"):
        explained(arguments={"seq_lengths": [2, 9]})
    if native_info().available:
        with pytest.raises(ValueError, match="loop='native' cannot be met: zoneout"):
            explained({"zoneout": 0.1}, {"rng": jax.random.key(0)}, loop="native")


@needs_kernel
def test_what_is_asked_is_what_runs():
    """The kernel's calls in a program are those that `explain_loop` tells of, under vmap too."""

    def loss(params, x):
        return (gruflax.gru_sequence(params, x)[0] ** 2).sum()

    for shape, units in ((X.shape, 5), ((1, 5, 512), 1024), ((16, 5, 512), 1024)):
        params, x = call_of({}, {}, shape, units).params, jnp.ones(shape)
        many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), params)
        programs = (
            jax.jit(jax.grad(loss)).lower(params, x),
            jax.jit(jax.vmap(jax.grad(loss), (0, None))).lower(many, x),
            jax.jit(jax.grad(lambda p, x: jax.vmap(loss, (0, None))(p, x).sum())).lower(many, x),
        )
        found = gruflax.explain_loop(params, x)
        for program in programs:
            text = program.as_text()
            for kind in ("forward", "backward"):
                assert text.count(f"gruflax_{kind}") == (found.gradient == "native")
        text = jax.jit(lambda p, x: gruflax.gru_sequence(p, x)[0]).lower(params, x).as_text()
        assert text.count("gruflax_forward") == (found.forward == "native")


@needs_kernel
def test_the_kernel_that_is_asked_for_is_not_left_under_vmap():
    params = call_of({}, {}, (1, 5, 512), 1024).params
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), params)
    x = jnp.ones((1, 5, 512))
    loss = lambda p: (gruflax.gru_sequence(p, x, loop="native")[0] ** 2).sum()  # noqa: E731
    text = jax.jit(jax.vmap(jax.grad(loss))).lower(many).as_text()
    assert text.count("gruflax_forward") == text.count("gruflax_backward") == 1
    config = gruflax.GRUConfig(zoneout=0.5)
    run = lambda p: gruflax.gru_sequence(p, x, config=config, loop="native")  # noqa: E731
    with pytest.raises(ValueError, match="loop='native' cannot be met: zoneout must be 0"):
        jax.vmap(run)(many)


def test_gates_are_kept_while_they_are_small():
    def kept(shape, units, members=None, **static):
        return keeps_gates(call_of({}, static, shape, units), members)

    assert kept((32, 100, 64), 128) and kept((64, 200, 8), 256)
    # 64 MiB: four numbers of each unit at each step.
    assert not kept((8, 4096, 8), 128) and kept((8, 4095, 8), 128)
    assert kept((4, 1000, 8), 128, 8) and not kept((4, 1000, 8), 128, 9)
    assert not kept((4, 1000, 8), 128, remat=True)
