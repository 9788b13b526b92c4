"""The chunked loop: every mode of differentiation agrees with the scan, and memory is bounded."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gruflax
from gruflax.functional.call import make_call
from gruflax.functional.loops.chunked.loop import chunked_loop
from gruflax.functional.loops.thresholds import chunk_length
from gruflax.functional.time import even_length


B, T, F, U = 3, 7, 4, 5
RANDOM = np.random.default_rng(11)
X, H = RANDOM.normal(size=(B, T, F)), RANDOM.normal(size=(B, U))
MASK, RESET = RANDOM.random((B, T)) < 0.6, RANDOM.random((B, T)) < 0.3
COTANGENT = RANDOM.normal(size=(B, T, U))

CASES = {
    "plain": ({}, {}),
    "before": ({"reset_after": False}, {}),
    "no_bias": ({"use_bias": False}, {"chunk": 2}),
    "masks": ({}, {"mask": MASK, "reset": RESET, "chunk": 7}),
    "masks_before": ({"reset_after": False}, {"mask": MASK, "reset": RESET, "chunk": 3}),
    "dropout": ({"dropout": 0.3, "recurrent_dropout": 0.3}, {"mask": MASK}),
    "dropout_before": (
        {"dropout": 0.3, "recurrent_dropout": 0.3, "reset_after": False},
        {"go_backwards": True},
    ),
    "one_mask": ({"dropout": 0.4, "implementation": 2}, {}),
    "relu": ({"activation": "relu", "recurrent_activation": "hard_sigmoid"}, {"mask": MASK}),
    "softmax": ({"activation": "softmax"}, {"mask": MASK, "reset": RESET}),
    "callable": ({"activation": lambda x: jnp.sin(2.0 * x)}, {}),
    "remat": ({}, {"remat": True, "mask": MASK, "reset": RESET, "chunk": 2}),
    "zeros": ({}, {"mask": MASK, "zero_output_for_mask": True}),
    "last": ({}, {"return_sequences": False, "mask": MASK}),
}


def problem(options, arguments):
    """A loss of parameters, inputs and initial state for a loop, and where to take it."""
    config = gruflax.GRUConfig(**options)
    params = gruflax.init_gru_params(
        jax.random.key(0),
        F,
        U,
        config,
        dtype="float64",
        bias_initializer=jax.nn.initializers.normal(1.0),
    )

    def loss(loop, params, x, h):
        extra = {"chunk": 3, **arguments} if loop == "chunked" else dict(arguments)
        if loop == "scan":
            extra.pop("chunk", None)
            extra.pop("remat", None)
        outputs, state = gruflax.gru_sequence(
            params,
            x,
            config=config,
            initial_state=h,
            rng=jax.random.key(1),
            loop=loop,
            **extra,
        )
        weights = COTANGENT if outputs.ndim == 3 else COTANGENT[:, 0]
        return (jnp.sin(outputs) * weights).sum() + (state**2).sum()

    return loss, (params, jnp.asarray(X), jnp.asarray(H))


# Those of which Hessian-vector products are taken backwards over forwards too.
BOTH_WAYS = ("plain", "masks_before", "softmax", "dropout")


def every_mode(loss, point, direction, both_ways):
    """Value, gradient, forward mode, and Hessian-vector products."""
    gradient = jax.grad(loss, (0, 1, 2))

    def slope(*point):
        return jax.jvp(loss, point, direction)[1]

    return (
        loss(*point),
        gradient(*point),
        slope(*point),
        jax.jvp(gradient, point, direction)[1],
        jax.grad(slope, (0, 1, 2))(*point) if both_ways else None,
    )


@pytest.mark.parametrize("name", CASES)
def test_every_mode_agrees_with_the_scan(name, x64):
    loss, point = problem(*CASES[name])
    direction = jax.tree.map(lambda leaf: jnp.asarray(RANDOM.normal(size=leaf.shape)), point)
    modes = functools.partial(every_mode, both_ways=name in BOTH_WAYS)
    found, wanted = (
        jax.jit(functools.partial(modes, functools.partial(loss, loop)))(point, direction)
        for loop in ("chunked", "scan")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, wanted)
    assert np.abs(found[1][0]["recurrent_kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", ["plain", "before", "masks", "dropout", "softmax"])
def test_turned_products_agree_with_the_scan(name, x64, monkeypatch):
    monkeypatch.setattr(
        "gruflax.functional.loops.thresholds.choose_products", lambda *_: (True, True)
    )
    test_every_mode_agrees_with_the_scan(name, None)


@pytest.mark.parametrize("inner_unroll", [3, 16])
def test_the_inner_loop_can_be_unrolled(inner_unroll, x64):
    """By a field of a call that is nobody's argument: what is timed where it may be worth it."""
    params = gruflax.init_gru_params(jax.random.key(0), F, U, dtype="float64")

    def loss(params, x, **fields):
        outputs, state = chunked_loop(make_call(params, x, mask=MASK, chunk=5, **fields))
        return (outputs * COTANGENT).sum() + (state**2).sum()

    unrolled = functools.partial(loss, inner_unroll=inner_unroll)
    found, wanted = (jax.jit(jax.value_and_grad(f, (0, 1))) for f in (unrolled, loss))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
        found(params, X),
        wanted(params, X),
    )
    text = str(found.trace(params, X).jaxpr)
    assert f"unroll={inner_unroll}" in text and f"unroll={inner_unroll}" not in str(
        wanted.trace(params, X).jaxpr
    )


def test_gradients_of_a_part_of_the_arguments(x64):
    """Where inputs or parameters have no tangent, their products are left out."""
    loss, point = problem(*CASES["masks_before"])
    for argument in range(3):
        found, wanted = (
            jax.jit(jax.grad(functools.partial(loss, loop), argument))(*point)
            for loop in ("chunked", "scan")
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, wanted)


def test_jacobians_batches_and_checkpoints(x64):
    """`jacfwd`, `vmap` over data and over parameters, `jax.checkpoint`."""
    loss, (params, x, h) = problem(*CASES["masks"])
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
    inputs = jnp.stack([x, 2 * x])

    def modes(loss):
        return (
            jax.jacfwd(loss, 2)(params, x, h),
            jax.vmap(jax.grad(loss), (0, None, None))(ensemble, x, h),
            jax.vmap(jax.grad(loss, 1), (None, 0, None))(params, inputs, h),
            jax.grad(jax.checkpoint(loss))(params, x, h),
        )

    found, wanted = (
        jax.jit(functools.partial(modes, functools.partial(loss, loop)))()
        for loop in ("chunked", "scan")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    params = gruflax.init_gru_params(jax.random.key(0), F, U, dtype=dtype)
    x = jnp.asarray(X, dtype)
    found, wanted = (
        jax.jit(
            jax.value_and_grad(
                lambda params, loop=loop: (
                    gruflax.gru_sequence(params, x, loop=loop)[0].astype("float32").sum()
                )
            )
        )(params)
        for loop in ("chunked", "scan")
    )
    assert found[1]["kernel"].dtype == dtype
    epsilon = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found[0], wanted[0], rtol=16 * epsilon)
    for name in params:
        scale = float(jnp.abs(wanted[1][name]).max())
        error = jnp.abs(found[1][name] - wanted[1][name]).astype("float32").max()
        assert float(error) <= 16 * epsilon * scale


def test_any_number_of_steps():
    """Fewer steps than a chunk, a prime number of them, one, none; any number of batch axes."""
    params = gruflax.init_gru_params(jax.random.key(0), F, U)
    for time, shape in itertools.product((0, 1, 2, 5, 11), ((), (2, 3))):
        x = RANDOM.normal(size=(*shape, time, F)).astype(np.float32)
        found = gruflax.gru_sequence(params, x, loop="chunked", chunk=4)
        wanted = gruflax.gru_sequence(params, x, loop="scan")
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, wanted)
        assert found[0].shape == (*shape, time, U)


def temporary_bytes(loss, *arguments):
    analysis = jax.jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_memory():
    """The backward pass keeps the states; with `remat` it keeps far fewer of them."""
    batch, time, features, units = 2, 1024, 4, 32
    params = gruflax.init_gru_params(jax.random.key(0), features, units)
    x = jnp.zeros((batch, time, features))

    def last(params, **options):
        return gruflax.gru_sequence(params, x, return_sequences=False, **options)[0].sum()

    states = batch * time * units * 4
    scan = temporary_bytes(functools.partial(last, loop="scan"), params)
    chunked = temporary_bytes(functools.partial(last, loop="chunked", chunk=32), params)
    remat = temporary_bytes(functools.partial(last, loop="chunked", chunk=32, remat=True), params)
    assert scan > 5 * states
    assert chunked < 3.5 * states
    assert remat < states


def test_inputs_are_turned_chunk_by_chunk():
    """With the batch first, no copy of the inputs with time first is made."""
    batch, time, features, units = 2, 1024, 128, 4
    params = gruflax.init_gru_params(jax.random.key(0), features, units)

    def last(params, x, **options):
        return gruflax.gru_sequence(params, x, return_sequences=False, chunk=32, **options)[0].sum()

    size = batch * time * features * 4
    x = jnp.zeros((batch, time, features))
    assert temporary_bytes(last, params, x) < size / 2
    turned = functools.partial(last, time_major=True)
    assert temporary_bytes(turned, params, x.swapaxes(0, 1)) < size / 2


@pytest.mark.parametrize("time_major", [False, True])
def test_gradients_of_parameters_alone(time_major, x64):
    """Where chunks turn their inputs and where they come turned, masks and a rest included."""
    _, (params, x, _) = problem({}, {})
    turn = (lambda a: a.swapaxes(0, 1)) if time_major else jnp.asarray
    call = {"mask": turn(MASK), "reset": turn(RESET), "time_major": time_major, "chunk": 3}

    def loss(loop, params):
        return jnp.sin(gruflax.gru_sequence(params, turn(x), loop=loop, **call)[0]).sum()

    found, wanted = (
        jax.jit(jax.grad(functools.partial(loss, loop)))(params) for loop in ("chunked", "scan")
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), found, wanted)


def test_even_lengths():
    """A divisor where one is near."""
    assert even_length(100_000, 317) == 250
    assert even_length(97, 10) == 10


def test_chunk_length():
    """As long as the block fits the cache; longer where adding up the weights would dominate."""
    assert chunk_length(100, 32, 64, 128, 4) == 100
    assert chunk_length(200, 32, 64, 128, 4) == 40
    assert chunk_length(200, 64, 128, 256, 4) == 10
    assert chunk_length(1000, 8, 32, 64, 4) == 250
    assert chunk_length(100, 256, 64, 64, 4) == 10
    assert chunk_length(50, 16, 512, 1024, 4) == 50
    assert chunk_length(100_000, 1, 8, 8, 4) == 250
    assert chunk_length(197, 32, 64, 128, 4) == 42
    assert chunk_length(3, 1, 1, 1, 4) == 3
    assert chunk_length(0, 1, 1, 1, 4) == 1
    assert chunk_length(200, 64, 128, 256, 2) > chunk_length(200, 64, 128, 256, 4)


def test_arguments_are_checked():
    params = gruflax.init_gru_params(jax.random.key(0), F, U)
    x = np.zeros((B, T, F), np.float32)
    with pytest.raises(ValueError, match=r"loop must be one of .*'chunked'.*, got 'fast'"):
        gruflax.gru_sequence(params, x, loop="fast")
    with pytest.raises(ValueError, match="chunk must be a positive integer, got 0"):
        gruflax.gru_sequence(params, x, chunk=0)


@pytest.mark.parametrize("options", [{}, {"chunk": 3}, {"remat": True}, {"mask": True}])
def test_an_empty_batch_over_several_chunks(options):
    if "mask" in options:
        options = {"mask": np.ones((0, 1000), bool)}
    params = gruflax.init_gru_params(jax.random.key(0), 3, 5)

    def run(params, x):
        return gruflax.gru_sequence(params, x, **options)

    outputs, state = run(params, jnp.zeros((0, 1000, 3)))
    assert outputs.shape == (0, 1000, 5) and state.shape == (0, 5)
    gradients = jax.grad(lambda *args: run(*args)[0].sum(), argnums=(0, 1))(
        params, jnp.zeros((0, 1000, 3))
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
