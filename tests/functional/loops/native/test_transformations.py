"""What JAX makes of the native loop: derivatives of every order, and maps, against the scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import gruflax
import gruflax.nnx
from gruflax.compat import v1
from gruflax.functional.loops.native.library import native_info


pytestmark = pytest.mark.skipif(
    not native_info().available, reason=f"no native loop: {native_info().reason}"
)

B, T, F, U = 3, 5, 4, 6
RANDOM = np.random.default_rng(3)
PARAMS = gruflax.init_gru_params(
    jax.random.key(0), F, U, bias_initializer=jax.nn.initializers.normal(1.0)
)
X = jnp.asarray(RANDOM.normal(size=(B, T, F)), jnp.float32)
H = jnp.asarray(RANDOM.normal(size=(B, U)), jnp.float32)
MASK = jnp.asarray(RANDOM.random((B, T)) < 0.7)
MANY_X = jnp.asarray(RANDOM.normal(size=(4, B, T, F)), jnp.float32)
MANY_PARAMS = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2, leaf * 2, -leaf]), PARAMS)
DPARAMS = jax.tree.map(lambda leaf: jnp.cos(leaf * 9), PARAMS)


def run(loop, params, x, h=H, **options):
    return gruflax.gru_sequence(params, x, initial_state=h, mask=MASK, loop=loop, **options)


def loss(loop, params, x=X, h=H):
    outputs, state = run(loop, params, x, h)
    return (outputs * jnp.cos(outputs)).sum() + (state**3).sum()


def push(function, at, along):
    return jax.jvp(function, (at,), (along,))[1]


def dotted(one, other):
    return sum((a * b).sum() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def layers(loop):
    """A scan over three layers, each a GRU of the same sizes."""
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2, -leaf]), PARAMS)
    stacked["kernel"] = jnp.tile(stacked["kernel"], (1, 2, 1))[:, :U]

    def total(stacked):
        x = jnp.tile(X, (1, 1, 2))[..., :U]
        return (lax.scan(lambda x, p: (run(loop, p, x)[0], None), x, stacked)[0] ** 2).sum()

    return jax.grad(total)(stacked)


def by_masks(loop):
    masks = gruflax.DropoutMasks(jnp.cos(X[None, :, 0]), jnp.sin(H[None]))

    def total(masks):
        return (run(loop, PARAMS, X, dropout_masks=masks)[0] ** 2).sum()

    return jax.grad(total)(masks)


TRANSFORMATIONS = {
    "grad": lambda loop: jax.grad(loss, argnums=(1, 2, 3))(loop, PARAMS, X, H),
    "grad by inputs alone": lambda loop: jax.grad(loss, argnums=2)(loop, PARAMS, X),
    "grad by the state alone": lambda loop: jax.grad(loss, argnums=3)(loop, PARAMS, X, H),
    "grad of the last state": lambda loop: jax.grad(
        lambda p: (run(loop, p, X, return_sequences=False)[0] ** 2).sum()
    )(PARAMS),
    "grad with zeros at masked steps": lambda loop: jax.grad(
        lambda p: (run(loop, p, X, zero_output_for_mask=True)[0] ** 2).sum()
    )(PARAMS),
    "grad by dropout masks": by_masks,
    "jvp": lambda loop: jax.jvp(lambda p, x: run(loop, p, x), (PARAMS, X), (DPARAMS, X)),
    "jvp with zeros at masked steps": lambda loop: push(
        lambda p: run(loop, p, X, zero_output_for_mask=True), PARAMS, DPARAMS
    ),
    "linearize": lambda loop: jax.linearize(lambda p: loss(loop, p), PARAMS)[1](DPARAMS),
    "forward over reverse": lambda loop: push(jax.grad(lambda p: loss(loop, p)), PARAMS, DPARAMS),
    "reverse over forward": lambda loop: jax.grad(
        lambda p: push(lambda p: loss(loop, p), p, DPARAMS)
    )(PARAMS),
    "reverse over reverse": lambda loop: jax.grad(
        lambda p: dotted(jax.grad(lambda p: loss(loop, p))(p), DPARAMS)
    )(PARAMS),
    "third order": lambda loop: push(
        lambda h: push(lambda h: push(lambda h: loss(loop, PARAMS, X, h), h, H), h, H), H, H
    ),
    "jacfwd": lambda loop: jax.jacfwd(lambda h: run(loop, PARAMS, X, h)[1])(H),
    "jacrev": lambda loop: jax.jacrev(lambda h: run(loop, PARAMS, X, h)[1])(H),
    "hessian": lambda loop: jax.hessian(lambda h: loss(loop, PARAMS, X, h))(H),
    "vmap over data": lambda loop: jax.vmap(lambda x: run(loop, PARAMS, x))(MANY_X),
    "vmap over data, time first": lambda loop: jax.vmap(
        lambda x: gruflax.gru_sequence(PARAMS, x, time_major=True, mask=MASK[:, :1], loop=loop)
    )(MANY_X),
    "vmap over the state": lambda loop: jax.vmap(lambda h: run(loop, PARAMS, X, h))(
        jnp.stack([H, -H])
    ),
    "vmap of vmap": lambda loop: jax.vmap(jax.vmap(lambda x: run(loop, PARAMS, x)))(
        jnp.stack([MANY_X, -MANY_X])
    ),
    "vmap over parameters": lambda loop: jax.vmap(lambda p: run(loop, p, X))(MANY_PARAMS),
    "vmap over both": lambda loop: jax.vmap(lambda p, x: run(loop, p, x))(MANY_PARAMS, MANY_X),
    "grad of vmap over data": lambda loop: jax.grad(
        lambda p: jax.vmap(lambda x: loss(loop, p, x))(MANY_X).sum()
    )(PARAMS),
    "grad of vmap over parameters": lambda loop: jax.grad(
        lambda p: jax.vmap(lambda p: loss(loop, p))(p).sum()
    )(MANY_PARAMS),
    "vmap of grad over data": lambda loop: jax.vmap(lambda x: jax.grad(loss, 1)(loop, PARAMS, x))(
        MANY_X
    ),
    "vmap of grad by inputs": lambda loop: jax.vmap(lambda x: jax.grad(loss, 2)(loop, PARAMS, x))(
        MANY_X
    ),
    "vmap of grad over both": lambda loop: jax.vmap(
        lambda p, x: jax.grad(loss, (1, 2))(loop, p, x)
    )(MANY_PARAMS, MANY_X),
    "vmap of forward over reverse": lambda loop: jax.vmap(
        lambda x: push(jax.grad(lambda p: loss(loop, p, x)), PARAMS, DPARAMS)
    )(MANY_X),
    "checkpoint": lambda loop: jax.grad(jax.checkpoint(lambda p: loss(loop, p)))(PARAMS),
    "remat": lambda loop: jax.grad(lambda p: (run(loop, p, X, remat=True)[0] ** 2).sum())(PARAMS),
    "scan over layers": layers,
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformation(name):
    transformation = TRANSFORMATIONS[name]
    found, wanted = (jax.jit(transformation, static_argnums=0)(loop) for loop in ("native", "scan"))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * max(1.0, float(abs(b).max())))

    jax.tree.map(close, found, wanted)


@pytest.mark.parametrize("name", ["grad", "jvp", "linearize"])
def test_without_jit(name):
    found, wanted = map(TRANSFORMATIONS[name], ("native", "scan"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def calls_in(function, *arguments):
    text = jax.jit(function).lower(*arguments).as_text()
    return text.count("gruflax_forward"), text.count("gruflax_backward")


def test_the_kernel_runs_where_it_says():
    """One call forward and one backward, under vmap too; the chunked loop has none."""
    grad = jax.grad(loss, 1)
    assert calls_in(lambda p: grad("native", p), PARAMS) == (1, 1)
    assert calls_in(lambda p: grad("auto", p), PARAMS) == (1, 1)
    assert calls_in(lambda p: grad("chunked", p), PARAMS) == (0, 0)
    mapped = jax.grad(lambda p: jax.vmap(lambda x: loss("auto", p, x))(MANY_X).sum())
    assert calls_in(mapped, PARAMS) == (1, 1)


def calls_of_layer(layer):
    variables = jax.eval_shape(layer.init, jax.random.key(0), X)
    return calls_in(lambda variables, x: layer.apply(variables, x), variables, X)[0]


def test_every_layer_has_it():
    gru = gruflax.GRU(U, return_sequences=True)
    assert calls_of_layer(gru) == 1
    assert calls_of_layer(v1.GRU(U)) == 1
    assert calls_of_layer(gruflax.RNN(gruflax.GRUCell(U))) == 1
    assert calls_of_layer(gruflax.Bidirectional(gru)) == 2
    assert calls_of_layer(gruflax.Stack([gru, gruflax.GRU(U)])) == 2
    layer = gruflax.nnx.GRU(F, U, rngs=nnx.Rngs(0))
    assert calls_in(lambda x: layer(x), X)[0] == 1


def both(function):
    """What a function of the loop computes by the native loop, and by the scan."""
    found, wanted = map(function, ("native", "scan"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


def test_a_pullback_is_mapped_otherwise_than_its_forward_pass(monkeypatch):
    """Gates that the forward pass kept, or did not, whatever the backward pass expects."""
    for limit in (4 * B * T * U * 4 + 1, 2**26):
        monkeypatch.setattr("gruflax.functional.loops.thresholds._KEPT_BYTES", limit)

        def mapped_by_map(loop):
            _, pull = jax.vmap(lambda x: jax.vjp(lambda p: loss(loop, p, x), PARAMS))(MANY_X)
            return jax.lax.map(lambda pull: pull(jnp.float32(1)), pull)

        def mapped_by_vmap(loop):
            _, pull = jax.lax.map(lambda x: jax.vjp(lambda p: loss(loop, p, x), PARAMS), MANY_X)
            return jax.vmap(lambda pull: pull(jnp.float32(1)))(pull)

        both(mapped_by_map)
        both(mapped_by_vmap)


def test_a_pullback_of_what_was_exported():
    """The forward pass comes from a program without the kernel, the backward pass has it."""

    def exported(loop):
        run = jax.jit(lambda p: jax.vjp(lambda p: loss(loop, p), p))
        shapes = jax.tree.structure(jax.eval_shape(run, PARAMS))
        leaves = jax.export.export(jax.jit(lambda p: jax.tree.leaves(run(p))))(PARAMS).call(PARAMS)
        return jax.tree.unflatten(shapes, leaves)[1](jnp.float32(1))

    both(exported)


def test_a_pullback_can_be_transposed():
    _, pull = jax.vjp(lambda h: run("native", PARAMS, X, h)[1], H)
    (found,) = jax.linear_transpose(lambda cotangent: pull(cotangent)[0], H)(H)
    np.testing.assert_allclose(
        found, push(lambda h: run("scan", PARAMS, X, h)[1], H, H), rtol=1e-5, atol=1e-5
    )


def test_without_jit_at_all():
    with jax.disable_jit():
        both(lambda loop: jax.grad(loss, 1)(loop, PARAMS))


def test_a_nan_is_found_where_it_is_looked_for():
    with jax.debug_nans(True):
        both(lambda loop: jax.grad(loss, 1)(loop, PARAMS))
        with pytest.raises(FloatingPointError, match="nan"):
            loss("native", PARAMS, X.at[0, 0, 0].set(jnp.nan))
