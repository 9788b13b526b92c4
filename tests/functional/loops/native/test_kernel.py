"""The kernel with each instruction set: its numbers, hard inputs, and what it must survive."""

import concurrent.futures
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gruflax
from gruflax.functional.loops.native.library import (
    BACKWARD,
    FORWARD,
    native_info,
    use_instructions,
)


pytestmark = pytest.mark.skipif(
    not native_info().available, reason=f"no native loop: {native_info().reason}"
)

RANDOM = np.random.default_rng(11)
B, T, F, U = 5, 6, 7, 19
SETS = ("avx512", "avx2", "baseline")


@pytest.fixture(params=SETS)
def instructions(request):
    """Computes with one instruction set for one test."""
    if not use_instructions(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    use_instructions(native_info().instruction_set)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def params_of(config=gruflax.GRUConfig(), features=F, units=U):
    init = jax.nn.initializers.normal(1.0) if config.use_bias else None
    options = {"bias_initializer": init} if init else {}
    return gruflax.init_gru_params(jax.random.key(0), features, units, config, **options)


@pytest.mark.parametrize("activation", ["tanh", "relu", "softsign"])
@pytest.mark.parametrize("reset_after", [True, False])
def test_values_and_gradients(instructions, reset_after, activation):
    config = gruflax.GRUConfig(activation=activation, reset_after=reset_after)
    params, x, mask = params_of(config), normal(B, T, F), RANDOM.random((B, T)) < 0.7

    def loss(loop, params, x):
        outputs, state = gruflax.gru_sequence(params, x, config=config, mask=mask, loop=loop)
        return (outputs**2).sum() + state.sum(), outputs

    found, wanted = (
        jax.value_and_grad(loss, argnums=(1, 2), has_aux=True)(loop, params, x)
        for loop in ("native", "scan")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_computed_in_float32_and_rounded(instructions, dtype):
    """All steps of a call carry the state in float32: its results are rounded, and nothing else."""
    leaves = jax.tree.map(lambda leaf: leaf.astype(dtype), (params_of(), normal(B, 50, F)))

    def loss(params, x):
        outputs, state = gruflax.gru_sequence(params, x, loop="native")
        return (outputs.astype(jnp.float32) ** 2).sum(), (outputs, state)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, found), gradients = run(*leaves)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), leaves)
    (_, wanted), wide_gradients = run(*wide)
    for narrow, exact in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(narrow, exact.astype(dtype))
    # The states that the gradients are computed from were rounded.
    epsilon = 8 * float(jnp.finfo(dtype).eps)
    for narrow, exact in zip(*map(jax.tree.leaves, (gradients, wide_gradients)), strict=True):
        assert narrow.dtype == dtype
        size = float(abs(exact).max())
        np.testing.assert_allclose(narrow.astype(jnp.float32), exact, atol=epsilon * size)


def test_gates_that_are_kept_change_no_gradient(instructions, monkeypatch):
    params, x = params_of(), normal(B, T, F)
    loss = lambda params, x: (gruflax.gru_sequence(params, x, loop="native")[0] ** 2).sum()  # noqa: E731
    run = lambda: jax.jit(jax.grad(lambda p, x: loss(p, x), argnums=(0, 1))).lower(params, x)  # noqa: E731
    kept = run()
    monkeypatch.setattr("gruflax.functional.loops.thresholds._KEPT_BYTES", 0)
    computed = run()
    size = f"x{T}x{4 * U}xf32"
    assert size in kept.as_text() and size not in computed.as_text()
    found, wanted = (each.compile()(params, x) for each in (kept, computed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)


def test_a_thousand_steps_stay_near_the_scan(instructions):
    params, x = params_of(), normal(2, 1000, F)
    native, scan = (gruflax.gru_sequence(params, x, loop=loop)[0] for loop in ("native", "scan"))
    np.testing.assert_allclose(native, scan, rtol=0, atol=1e-6)


def test_a_row_is_the_same_in_every_batch(instructions):
    """Sums are in one order whatever is computed beside them."""
    params, x = params_of(), normal(64, T, F)
    run = jax.jit(lambda x: gruflax.gru_sequence(params, x, loop="native")[0])
    whole = np.asarray(run(x))
    for rows in (2, 3, 11, 50):
        np.testing.assert_array_equal(run(x[:rows]), whole[:rows])


def test_nan_and_infinity_are_those_of_the_scan(instructions):
    x = np.array(normal(8, T, F))
    x[0, 2, 0], x[1, 2, 1], x[2, 2, 2] = np.nan, np.inf, -np.inf
    x[3, 2] = 1e30
    state = np.array(normal(8, U))
    state[4, 0], state[5, 1], state[6, 2] = np.nan, np.inf, -np.inf
    for activation in ("tanh", "linear", "relu"):
        config = gruflax.GRUConfig(activation=activation)
        native, scan = (
            gruflax.gru_sequence(
                params_of(config), x, config=config, initial_state=state, loop=loop
            )[0]
            for loop in ("native", "scan")
        )
        np.testing.assert_allclose(native, scan, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_tanh_is_exact_where_it_is_small_and_where_it_is_large(instructions, x64):
    """The candidate alone: z is 0, and what an input adds to it is the input."""
    config = gruflax.GRUConfig(recurrent_activation="hard_sigmoid")
    bias = jnp.zeros((2, 9)).at[0, :3].set(-9.0)
    kernel = jnp.zeros((3, 9)).at[:, 6:].set(jnp.eye(3))
    params = {"kernel": kernel, "recurrent_kernel": jnp.zeros((3, 9)), "bias": bias}
    sizes = np.concatenate([np.logspace(-300, np.log10(700), 999), np.linspace(0.1, 25, 1000)])
    for dtype, smallest, tolerance in ((np.float64, 0, 1e-15), (np.float32, 1e-37, 1e-6)):
        each = sizes[sizes >= smallest]
        x = np.tile(np.concatenate([-each, each])[:, None, None], (2, 3)).astype(dtype)
        leaves = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        _, found = gruflax.gru_sequence(leaves, x, config=config, loop="native")
        wanted = np.tanh(x[:, 0].astype(np.float64))
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=0)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


@needs_linux
def test_gradients_do_not_hang_on_the_threads():
    code = """
import jax, numpy as np, gruflax
x = jax.random.normal(jax.random.key(1), (40, 9, 5))
params = gruflax.init_gru_params(jax.random.key(0), 5, 33)
loss = lambda params: (gruflax.gru_sequence(params, x, loop="native")[0] ** 2).sum()
print(*(np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(jax.grad(loss)(params))))
"""
    alone = "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    one, more = (
        subprocess.run(
            [sys.executable, "-c", first + code], capture_output=True, text=True, check=True
        ).stdout
        for first in (alone, "")
    )
    assert one == more and len(one) > 1000


def gradient_of(params, x):
    def loss(params):
        return (gruflax.gru_sequence(params, x, loop="native")[0] ** 2).sum()

    return jax.grad(loss)(params)


def test_eight_threads_and_eight_devices_at_once():
    params, x = params_of(), normal(16, 30, F)
    run = jax.jit(gradient_of)
    wanted = run(params, x)
    arguments = [jax.device_put((params, x), device) for device in jax.devices()[:8]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda i: run(*arguments[i % 8]), range(400)):
            jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_two_processes_and_a_fork():
    """Same numbers from two processes at once, each of which goes on after a fork."""
    code = """
import os, warnings
import jax, numpy as np, gruflax
x = jax.random.normal(jax.random.key(1), (16, 30, 5))
params = gruflax.init_gru_params(jax.random.key(0), 5, 33)
run = jax.jit(lambda x: gruflax.gru_sequence(params, x, loop="native")[0])
first = np.asarray(run(x))
warnings.simplefilter("ignore")
child = os.fork()
if not child:
    os._exit(0)
for _ in range(200):
    assert (np.asarray(run(x)) == first).all()
assert os.waitpid(child, 0)[1] == 0
print(first.tobytes().hex())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    one, other = (process.communicate(timeout=120)[0] for process in running)
    assert one == other and len(one) > 1000


@needs_linux
def test_memory_does_not_grow():
    run = jax.jit(gradient_of)
    params, x = params_of(), normal(4, 3, F)
    jax.block_until_ready([run(params, x) for _ in range(500)])
    before = resident_bytes()
    for _ in range(100):
        jax.block_until_ready([run(params, x) for _ in range(100)])
    assert resident_bytes() - before < 8 * 2**20


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@needs_linux
def test_without_memory_there_is_an_error_and_the_process_goes_on():
    code = """
import os, resource
import jax, jax.numpy as jnp, numpy as np, gruflax
# A single unit takes the room of a whole vector where the weights are packed.
params = gruflax.init_gru_params(jax.random.key(0), 2**20, 1)
x = jnp.ones((2, 2, 2**20))
run = jax.jit(lambda x: gruflax.gru_sequence(params, x, loop="native")[0])
first = np.asarray(run(x))
pages = int(open("/proc/self/statm").read().split()[0])
unlimited = resource.getrlimit(resource.RLIMIT_AS)
limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**24
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
try:
    jax.block_until_ready(run(x))
except Exception as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, unlimited)
print((np.asarray(run(x)) == first).all())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["RESOURCE_EXHAUSTED: gruflax: memory", "True"]


ATTRIBUTES = {
    "members": np.int64(1),
    "time_major": False,
    "go_backwards": False,
    "reset_after": True,
    "zero_output_for_mask": False,
    "activation": np.int32(1),
    "recurrent_activation": np.int32(0),
}
SHAPES = {
    "kernel": (F, 3 * U),
    "recurrent_kernel": (U, 3 * U),
    "inputs": (B, T, F),
    "initial_state": (B, U),
    "reset_state": (B, U),
}
# For each array that there may be: 0 if it is absent, 1 if all members share it, 2 if each has one.
OPERANDS = [1, 1, 0, 1, 1, 1, 0, 0, 0, 0]


def call_target(shapes=None, results=None, dtype=np.float32, operands=OPERANDS, **attributes):
    arrays = [jnp.ones(shape, dtype) for shape in {**SHAPES, **(shapes or {})}.values()]
    results = results or [(B, U), (B, T, U)]
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape in results]
    attributes = {**ATTRIBUTES, "results": [1, 1, 0], **attributes, "operands": operands}
    for name in ("operands", "results"):
        attributes[name] = np.array(attributes[name], np.int32)
    return jax.ffi.ffi_call(FORWARD, types)(*arrays, **attributes)


WRONG = {
    "kernel is no matrix of three gates": {"shapes": {"kernel": (F, 3 * U + 1)}},
    "recurrent_kernel must have": {"shapes": {"recurrent_kernel": (U, 3 * U + 1)}},
    "inputs do not fit": {"shapes": {"inputs": (B, T, F + 1)}},
    "initial_state must have": {"shapes": {"initial_state": (B + 1, U)}},
    "reset_state must have": {"shapes": {"reset_state": (B, U + 1)}},
    "valid is missing": {"operands": [1, 1, 0, 1, 1, 1, 1, 0, 0, 0]},
    "kernel is of another dtype": {"dtype": np.float16},
    "recurrent_kernel must have 2166": {"operands": [1, 2] + OPERANDS[2:], "members": np.int64(2)},
    "too many of: operand": {"operands": [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]},
    "outputs must have": {"results": [(B, U), (B, T, U + 1)]},
    "activation is unknown": {"activation": np.int32(99)},
    "outputs is missing": {"results": [(B, U)]},
}


@pytest.mark.parametrize("complaint", WRONG)
def test_what_does_not_fit_is_an_error(complaint):
    with pytest.raises(Exception, match=complaint):
        jax.block_until_ready(call_target(**WRONG[complaint]))


def test_what_fits_is_none():
    state, outputs = call_target()
    assert state.shape == (B, U) and np.isfinite(outputs).all()


def gradients_of_call(rows=B, time=T, features=F, units=U, inputs=1.0):
    """All that the backward target gives where everything is one but the inputs."""
    shapes = {
        "kernel": (features, 3 * units),
        "recurrent_kernel": (units, 3 * units),
        "bias": (2, 3 * units),
        "inputs": (rows, time, features),
        "initial_state": (rows, units),
        "reset_state": (rows, units),
    }
    steps = (rows, time, units)
    arrays = [jnp.ones(shape) for shape in (*shapes.values(), steps, steps, (rows, units))]
    arrays[3] *= inputs
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes.values()]
    # The bias, the outputs and both cotangents are there, and every gradient is wanted.
    operands = np.array([1] * 6 + [0] * 4 + [1, 0, 1, 1], np.int32)
    attributes = {**ATTRIBUTES, "operands": operands, "results": np.ones(6, np.int32)}
    found = jax.ffi.ffi_call(BACKWARD, types)(*arrays, **attributes)
    return dict(zip(shapes, found, strict=True))


@pytest.mark.parametrize("absent", ["rows", "time", "features", "units"])
def test_where_there_is_nothing_gradients_are_defined(absent):
    found = gradients_of_call(**{absent: 0})
    assert all(np.isfinite(each).all() for each in found.values())
    if absent == "features":
        like = gradients_of_call(features=1, inputs=0.0)
        for name in ("recurrent_kernel", "bias", "initial_state", "reset_state"):
            np.testing.assert_array_equal(found[name], like[name])
    else:
        weights = [found[name] for name in ("kernel", "recurrent_kernel", "bias")]
        assert not any(each.any() for each in weights)
    if absent == "time":
        np.testing.assert_array_equal(found["initial_state"], np.ones((B, U)))
    if absent == "units":
        assert found["inputs"].shape == (B, T, F) and not found["inputs"].any()
