"""The cuDNN loop agrees with the scan wherever it runs, and says so where it cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gruflax
import gruflax.nnx
from gruflax.functional.loops.cudnn import passes


ON_A_GPU = passes._on_a_gpu
needs_two_devices = pytest.mark.skipif(len(jax.devices()) < 2, reason="there is one device")
B, T, F, U = 3, 5, 4, 6
RANDOM = np.random.default_rng(3)
X, H = RANDOM.normal(size=(B, T, F)), RANDOM.normal(size=(B, U))
MASK = RANDOM.random((B, T)) < 0.6
MASK[1] = False
COTANGENT = RANDOM.normal(size=(B, T, U))

equal = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, atol=1e-10))


def drawn(dtype="float64"):
    """Parameters with a bias that is not zero."""
    normal = jax.nn.initializers.normal(1.0)
    return gruflax.init_gru_params(
        jax.random.key(0), F, U, bias_initializer=normal, dtype=jnp.dtype(dtype)
    )


def loss(loop, params, x, h, **options):
    """A number that all outputs and the state enter."""
    outputs, state = gruflax.gru_sequence(params, x, initial_state=h, loop=loop, **options)
    weights = COTANGENT if outputs.ndim == 3 else COTANGENT[:, 0]
    return (jnp.sin(outputs) * weights).sum() + (state**2).sum()


CALLS = {
    "plain": {},
    "mask": {"mask": MASK},
    "left_padded": {"mask": np.arange(T) >= np.array([[0], [2], [5]])},
    "lengths": {"seq_lengths": np.array([5, 0, 2])},
    "backwards": {"mask": MASK, "go_backwards": True},
    "zeros": {"mask": MASK, "zero_output_for_mask": True},
    "last": {"mask": MASK, "return_sequences": False},
    "dropout": {
        "config": gruflax.GRUConfig(dropout=0.4, recurrent_weight_dropout=0.3),
        "rng": jax.random.key(2),
    },
    "remat": {"remat": True},
}


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients(name, cudnn, x64):
    call = {loop: functools.partial(loss, loop, **CALLS[name]) for loop in ("cudnn", "scan")}
    found, wanted = (
        jax.jit(jax.value_and_grad(each, (0, 1, 2)))(drawn(), X, H) for each in call.values()
    )
    equal(found, wanted)
    equal(call["cudnn"](drawn(), X, H), wanted[0])
    assert {kind for kind, _ in cudnn.calls} == {"forward", "backward"}
    assert {problem.training for _, problem in cudnn.calls} == {False, True}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 0.1)]
)
def test_dtypes(dtype, tolerance, cudnn):
    def run(loop):
        def total(params):
            outputs = gruflax.gru_sequence(params, X.astype(dtype), loop=loop)[0]
            return outputs.astype("float32").sum(), outputs

        return jax.grad(total, has_aux=True)(drawn(dtype))

    (found, outputs), (wanted, _) = run("cudnn"), run("scan")
    assert outputs.dtype == dtype
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a.astype("float32"), b.astype("float32"), rtol=tolerance, atol=10 * tolerance
        ),
        found,
        wanted,
    )


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_batch_axes(axes, cudnn, x64):
    x = RANDOM.normal(size=(*axes, T, F))
    found, wanted = (gruflax.gru_sequence(drawn(), x, loop=loop) for loop in ("cudnn", "scan"))
    equal(found, wanted)


@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences(steps, cudnn, x64):
    found, wanted = (
        gruflax.gru_sequence(drawn(), X[:, :steps], loop=loop) for loop in ("cudnn", "scan")
    )
    equal(found, wanted)


@pytest.mark.parametrize("empty", ["batch", "mapped"])
def test_nothing_to_run(empty, cudnn, x64):
    """cuDNN refuses an empty batch."""
    x, h = jnp.zeros((0, T, F)), jnp.zeros((0, U))

    def total(loop, params, x, h):
        outputs, state = gruflax.gru_sequence(params, x, initial_state=h, loop=loop)
        return (outputs**2).sum() + (state**2).sum()

    def modes(loop):
        value = functools.partial(total, loop)
        both = lambda *each: (value(*each), jax.grad(value, (0, 1, 2))(*each))  # noqa: E731
        if empty == "mapped":
            return jax.jit(jax.vmap(both, (None, 0, 0)))(drawn(), x[:, None], h[:, None])
        return jax.jit(both)(drawn(), x, h)

    equal(modes("cudnn"), modes("scan"))


def test_vmap_over_data_is_one_call(cudnn, x64):
    xs = jnp.stack([X, 2 * X])
    found, wanted = (
        jax.vmap(lambda x, loop=loop: gruflax.gru_sequence(drawn(), x, loop=loop)[0])(xs)
        for loop in ("cudnn", "scan")
    )
    equal(found, wanted)
    assert [problem.batch for _, problem in cudnn.calls] == [2 * B]


def test_vmap_over_parameters_and_of_gradients(cudnn, x64):
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), drawn())
    xs = jnp.stack([X, 2 * X])

    def modes(loop):
        each = functools.partial(loss, loop)
        return (
            jax.vmap(each, (0, None, None))(ensemble, X, H),
            jax.vmap(jax.grad(each, (0, 1)), (0, None, None))(ensemble, X, H),
            jax.vmap(jax.grad(each, (0, 1)), (None, 0, None))(drawn(), xs, H),
            jax.grad(lambda params: jax.vmap(each, (None, 0, None))(params, xs, H).sum())(drawn()),
        )

    equal(*(jax.jit(functools.partial(modes, loop))() for loop in ("cudnn", "scan")))


def test_jacobian_and_checkpoint(cudnn, x64):
    def modes(loop):
        def last(h):
            return gruflax.gru_sequence(drawn(), X, initial_state=h, loop=loop)[1]

        pulled = jax.vjp(last, jnp.asarray(H))[1]
        twice = [pulled(jnp.asarray(H)) for _ in range(2)]
        checkpointed = jax.grad(jax.checkpoint(functools.partial(loss, loop)))(drawn(), X, H)
        return jax.jacrev(last)(jnp.asarray(H)), twice, checkpointed

    equal(*(jax.jit(functools.partial(modes, loop))() for loop in ("cudnn", "scan")))


def test_second_derivatives(cudnn, x64):
    point = drawn(), jnp.asarray(X), jnp.asarray(H)
    direction = jax.tree.map(lambda leaf: jnp.asarray(RANDOM.normal(size=leaf.shape)), point)

    def modes(loop):
        gradient = jax.grad(functools.partial(loss, loop), (0, 1, 2))

        def slope(*point):
            pairs = zip(*map(jax.tree.leaves, (gradient(*point), direction)), strict=True)
            return sum((a * b).sum() for a, b in pairs)

        return jax.jvp(gradient, point, direction)[1], jax.grad(slope, (0, 1, 2))(*point)

    equal(*(jax.jit(functools.partial(modes, loop))() for loop in ("cudnn", "scan")))


@pytest.mark.parametrize("precision", [None, "highest"])
def test_second_derivatives_are_as_precise(precision, cudnn):
    """The scan behind them multiplies as exactly as the first ones."""
    x, h = X.astype("float32"), H.astype("float32")

    def slope(h):
        return jax.grad(lambda h: loss("cudnn", drawn("float32"), x, h, precision=precision))(h)

    with jax.default_matmul_precision(None):
        text = str(jax.make_jaxpr(lambda h: jax.jvp(slope, (h,), (h,)))(h))
    assert text.count("dot_general[") >= 4
    exact = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert exact == (text.count("dot_general[") if precision else 0)


def test_forward_mode_raises(cudnn):
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda h: loss("cudnn", drawn("float32"), X, h), (H,), (H,))


@needs_two_devices
@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check, cudnn, x64):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    x = RANDOM.normal(size=(4, T, F))

    def total(loop, params, x):
        def local(params, x):
            outputs = gruflax.gru_sequence(params, x, loop=loop)[0]
            return jax.lax.psum((outputs**2).sum(), "data")

        return jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check
        )(params, x)

    found, wanted = (
        jax.jit(jax.value_and_grad(functools.partial(total, loop), (0, 1)))(drawn(), x)
        for loop in ("cudnn", "scan")
    )
    equal(found, wanted)


@needs_two_devices
def test_a_batch_in_shards(cudnn, x64):
    """`jit` over several devices, and `pmap`."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.device_put(RANDOM.normal(size=(4, T, F)), NamedSharding(mesh, P("data")))

    def total(loop, params, x):
        return (gruflax.gru_sequence(params, x, loop=loop)[0] ** 2).sum()

    def modes(loop):
        gradient = jax.grad(functools.partial(total, loop), (0, 1))
        return (
            jax.jit(gradient)(drawn(), x),
            jax.pmap(gradient, in_axes=(None, 0))(drawn(), np.asarray(x).reshape(2, 2, T, F)),
        )

    equal(modes("cudnn"), modes("scan"))


def test_other_platforms_refuse(cudnn, x64, monkeypatch):
    """Arrays of a CPU do not reach cuDNN, also where there is a GPU."""
    monkeypatch.setattr(passes, "_on_a_gpu", ON_A_GPU)
    traced = jax.jit(functools.partial(loss, "cudnn")).trace(drawn(), X, H)
    traced.lower(lowering_platforms=("cuda",))
    for platform in ("cpu", "tpu", "rocm"):
        wanted = f"the platform must be a GPU with CUDA, it is '{platform}'"
        with pytest.raises(ValueError, match=wanted):
            traced.lower(lowering_platforms=(platform,))
    with jax.default_device(jax.devices("cpu")[0]), pytest.raises(ValueError, match="it is 'cpu'"):
        loss("cudnn", drawn(), X, H)


def test_layers_ask_for_it(cudnn):
    layer = gruflax.GRU(U, use_cudnn=True)
    variables = layer.init(jax.random.key(0), X)
    layer.apply(variables, X, mask=MASK)
    assert len(cudnn.calls) == 2
    gruflax.nnx.GRU(F, U, use_cudnn=True, rngs=nnx.Rngs(0))(X.astype("float32"), mask=MASK)
    assert len(cudnn.calls) == 3


def test_auto_does_not(cudnn):
    loss("auto", drawn("float32"), X, H)
    assert cudnn.calls == []


@pytest.mark.parametrize(
    ("precision", "default", "allowed"),
    [
        (None, None, True),
        ("highest", None, False),
        (jax.lax.Precision.HIGHEST, None, False),
        (("highest", "highest"), None, False),
        ("default", "float32", True),
        (None, "float32", False),
        ("tensorfloat32", None, True),
        ("F32_F32_F32", None, False),
        (None, "F32_F32_F32", False),
        (jax.lax.DotAlgorithmPreset.F32_F32_F32, None, False),
        (jax.lax.DotAlgorithmPreset.TF32_TF32_F32, None, True),
        ("TF32_TF32_F32_X3", None, False),
        (jax.lax.DotAlgorithm(np.float32, np.float32, np.float32), None, False),
        (jax.lax.DotAlgorithm(jnp.bfloat16, jnp.bfloat16, np.float32), None, True),
        (("highest", "default"), None, True),
    ],
)
def test_tf32_follows_the_precision(precision, default, allowed, cudnn):
    with jax.default_matmul_precision(default):
        gruflax.gru_sequence(
            drawn("float32"), X.astype("float32"), loop="cudnn", precision=precision
        )
    assert [problem.tensor_cores for _, problem in cudnn.calls] == [allowed]
