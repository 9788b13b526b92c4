"""What is lowered for GPUs and TPUs, as far as a CPU can tell: every loop and layer, everywhere."""

import contextlib
import functools
import pathlib
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from numpy_cudnn import NumpyCudnn, in_place_of_cudnn

import gruflax
import gruflax.nnx
from gruflax.compat import v1
from gruflax.functional.loops.cudnn import passes


PLATFORMS = ("cuda", "tpu")
KERNEL, CUDNN = "gruflax_", "xla_buffer_python_gpu_callback"
B, T, F, U = 4, 6, 3, 5
X = np.random.default_rng(0).normal(size=(B, T, F)).astype(np.float32)
MASK = np.random.default_rng(1).random((B, T)) < 0.7
# The layers below take "auto".
LOOPS = ("scan", "chunked", *oracle.NATIVE, "cudnn")
# The stand-in replaces this, to run on a CPU. A program that is only lowered keeps the real one.
ON_A_GPU = mock.patch("gruflax.functional.loops.cudnn.passes._on_a_gpu", passes._on_a_gpu)


@functools.cache
def params_of(features=F, units=U):
    return gruflax.init_gru_params(jax.random.key(0), features, units)


def lowered(function, *arguments, platforms=PLATFORMS):
    """The program for each platform; none may call the CPU's kernel."""
    traced = jax.jit(function).trace(*arguments)
    texts = {each: traced.lower(lowering_platforms=(each,)).as_text() for each in platforms}
    assert not [each for each, text in texts.items() if KERNEL in text]
    return texts


def total(loop, params, x, mask=MASK):
    outputs, state = gruflax.gru_sequence(params, x, mask=mask, loop=loop)
    return (outputs**2).sum() + state.sum()


def mapped_over_data(function):
    return lambda params, x: jax.vmap(function, (None, 0))(params, jnp.stack([x, 2 * x]))


def mapped_over_parameters(function):
    def run(params, x):
        members = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
        return jax.vmap(function, (0, None))(members, x)

    return run


def gradient(function):
    return jax.grad(lambda *arguments: jnp.sum(function(*arguments)), (0, 1))


# The program of a loss, and how often cuDNN is called in it.
MODES = {
    "value": (lambda run: run, 1),
    "gradient": (gradient, 2),
    "over data": (mapped_over_data, 1),
    "over parameters": (mapped_over_parameters, 1),
    "gradients over data": (lambda run: mapped_over_data(gradient(run)), 2),
    "gradients over parameters": (lambda run: mapped_over_parameters(gradient(run)), 2),
    "gradient of vmap": (lambda run: gradient(mapped_over_data(run)), 2),
    "forward mode": (lambda run: lambda p, x: jax.jvp(lambda x: run(p, x), (x,), (x,)), None),
    "second derivatives": (lambda run: lambda p, x: jax.jvp(gradient(run), (p, x), (p, x)), 2),
}


def check(loop, times, function, *arguments):
    """Lowers a program for each platform; that of cuDNN calls it so many times."""
    if loop != "cudnn":
        texts = lowered(function, *arguments)
        assert CUDNN not in texts["cuda"]
        return texts
    with in_place_of_cudnn(NumpyCudnn()), ON_A_GPU:
        texts = lowered(function, *arguments, platforms=("cuda",))
    assert texts["cuda"].count(CUDNN) == times
    return texts


def modes_of(loop):
    # cuDNN has no forward mode: a test of its own says so.
    return [name for name in MODES if loop != "cudnn" or name != "forward mode"]


CASES = [(loop, mode) for loop in LOOPS for mode in modes_of(loop)]


@pytest.mark.parametrize(("loop", "mode"), CASES)
def test_functional(loop, mode):
    change, times = MODES[mode]
    check(loop, times, change(functools.partial(total, loop)), params_of(), X)


# cuDNN under explicit axes needs its own `jax.shard_map`.
SHARDS = [(loop, explicit) for loop in LOOPS for explicit in (False, True)][:-1]


@pytest.mark.parametrize(("loop", "explicit"), SHARDS)
def test_shards(loop, explicit):
    """Rows on two devices: the program says so, whatever they are."""
    kind = AxisType.Explicit if explicit else AxisType.Auto
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh) if explicit else contextlib.nullcontext():
        x, mask = jax.device_put((X, MASK), rows)
        params = jax.device_put(params_of(), NamedSharding(mesh, P()))
        run = functools.partial(total, loop)
        texts = check(loop, 2, jax.value_and_grad(run, (0, 1)), params, x, mask)
    assert all("mhlo.num_partitions = 2" in text for text in texts.values())


@pytest.mark.parametrize("loop", LOOPS)
def test_shard_map_and_pmap(loop):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.value_and_grad(functools.partial(total, loop))

    def local(params, x, mask):
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "data"), run(params, x, mask))

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=(P(), P())
    )
    check(loop, 2, mapped, params_of(), X, MASK)
    many = jax.pmap(run, in_axes=(None, 0, 0))
    check(loop, 2, many, params_of(), X.reshape(2, 2, T, F), MASK.reshape(2, 2, T))


def in_shards():
    """The inputs, their rows on two devices."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    return jax.device_put(X, NamedSharding(mesh, P("data")))


def linen_layers():
    cell = gruflax.GRUCell(U, parent=None)
    return {
        "GRU": gruflax.GRU(U, return_sequences=True, dropout=0.2, recurrent_dropout=0.2),
        "GRU, reset before": gruflax.GRU(U, reset_after=False, zoneout=0.1),
        "GRU, remat": gruflax.GRU(U, remat=True, learn_initial_state=True),
        "stateful": gruflax.GRU(U, stateful=True),
        "RNN": gruflax.RNN(cell, return_sequences=True),
        "RNN of LSTM": gruflax.RNN(nn.LSTMCell(U, parent=None)),
        "stacked": gruflax.RNN(
            gruflax.StackedRNNCells([cell, gruflax.GRUCell(4, parent=None)], parent=None)
        ),
        "Bidirectional": gruflax.Bidirectional(gruflax.GRU(U, parent=None)),
        "Stack": gruflax.Stack([gruflax.GRU(U, return_sequences=True), gruflax.GRU(4)]),
        "flax.linen.RNN": nn.RNN(cell),
        "v1": v1.GRU(U, return_sequences=True),
    }


@pytest.mark.parametrize("name", linen_layers())
def test_linen(name):
    layer = linen_layers()[name]
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    ours = name != "flax.linen.RNN"

    def loss(params, x):
        options = {"mask": MASK, "training": True} if ours else {}
        outputs, _ = layer.apply(
            {**variables, "params": params},
            x,
            mutable=["recurrent_state"],
            rngs={"dropout": jax.random.key(1)},
            **options,
        )
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs))

    lowered(jax.value_and_grad(loss, (0, 1)), variables["params"], in_shards())
    lowered(mapped_over_parameters(jax.grad(loss)), variables["params"], X)


NNX_LAYERS = {
    "GRU": lambda rngs: gruflax.nnx.GRU(F, U, return_sequences=True, dropout=0.2, rngs=rngs),
    "stateful": lambda rngs: gruflax.nnx.GRU(F, U, stateful=True, rngs=rngs),
    "RNN": lambda rngs: gruflax.nnx.RNN(gruflax.nnx.GRUCell(F, U, rngs=rngs)),
    "RNN of LSTM": lambda rngs: gruflax.nnx.RNN(nnx.LSTMCell(F, U, rngs=rngs)),
    "Bidirectional": lambda rngs: gruflax.nnx.Bidirectional(
        gruflax.nnx.GRU(F, U, rngs=rngs), rngs=rngs
    ),
    "Stack": lambda rngs: gruflax.nnx.Stack(
        [gruflax.nnx.GRU(F, U, return_sequences=True, rngs=rngs), gruflax.nnx.GRU(U, 4, rngs=rngs)]
    ),
}


@pytest.mark.parametrize("name", NNX_LAYERS)
def test_nnx(name):
    graph, params, others = nnx.split(NNX_LAYERS[name](nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, x, others):
        # Copied inside the gradient, where a stream of random numbers counts on.
        outputs = nnx.merge(graph, params, jax.tree.map(jnp.copy, others))(x, mask=MASK)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(outputs))

    lowered(jax.value_and_grad(loss, (0, 1)), params, in_shards(), others)


@pytest.mark.parametrize("platform", ["cpu", *PLATFORMS])
def test_the_kernel_comes_first_on_cpus_only(platform):
    """A wide layer with few rows: the form of the step's product is chosen when it is lowered."""
    units = 512
    traced = jax.jit(jax.grad(functools.partial(total, "chunked"))).trace(params_of(F, units), X)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # What multiplies from the left is the kernel [3u, u], and the product is [3u, b].
    assert (f"-> tensor<{3 * units}x{B}xf32>" in text) == (platform == "cpu")
    # Backwards the product with the transposed kernel is [u, b].
    assert (f"-> tensor<{units}x{B}xf32>" in text) == (platform == "cpu")


def test_the_default_backend_is_not_asked_for():
    """It says nothing of where a program will run."""
    files = (pathlib.Path(gruflax.__file__).parent / "functional").rglob("*.py")
    assert not [file for file in files if "default_backend" in file.read_text()]
