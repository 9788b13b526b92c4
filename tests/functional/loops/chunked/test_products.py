"""The forms of the chunked loop's products."""

import jax
import jax.numpy as jnp
import pytest

import gruflax
from gruflax.functional.loops.chunked.products import (
    flat_dot,
    kernel_first_backward_dot,
    kernel_first_dot,
)
from gruflax.functional.loops.thresholds import choose_products


UNITS = 512


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    "dot",
    [lambda x, kernel: kernel_first_dot(x, kernel.T), kernel_first_backward_dot, flat_dot],
    ids=["kernel_first", "kernel_first_backward", "flat"],
)
def test_every_form_is_the_product(dot, batch, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4, *batch, 5), float)
    kernel = jax.random.normal(keys[1], (5, 6), float)
    tangents = jax.random.normal(keys[2], x.shape, float), jnp.flip(kernel)
    wanted, dwanted = jax.jvp(jnp.dot, (x, kernel), tangents)
    got, dgot = jax.jvp(dot, (x, kernel), tangents)
    assert jnp.allclose(got, wanted, rtol=1e-12)
    assert jnp.allclose(dgot, dwanted, rtol=1e-12)
    pulled = [jax.vjp(each, x, kernel)[1](dwanted) for each in (dot, jnp.dot)]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-12), *pulled)))


@pytest.mark.parametrize(
    ("rows", "units", "forward", "backward"),
    [
        (16, 1024, True, True),
        (2, 512, True, True),
        (32, 511, False, True),
        (1, 1024, False, False),
        (33, 1024, False, False),
    ],
)
def test_choice(rows, units, forward, backward):
    assert choose_products(rows, units) == (forward, backward)


def test_a_wide_layer_agrees_with_the_scan(x64):
    params = gruflax.init_gru_params(jax.random.key(0), 3, UNITS, dtype="float64")
    x = jax.random.normal(jax.random.key(1), (2, 3, 3), float)

    def value_and_grad(loop):
        def loss(params):
            return (gruflax.gru_sequence(params, x, loop=loop, chunk=2)[0] ** 2).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    # Forward the product comes out as [3u, b], and is turned back.
    run = jax.make_jaxpr(lambda params: gruflax.gru_sequence(params, x, loop="chunked", chunk=2)[0])
    assert f"f64[{3 * UNITS},2] = dot_general" in str(run(params))
    pairs = zip(*map(jax.tree.leaves, map(value_and_grad, ("chunked", "scan"))), strict=True)
    assert all(jnp.allclose(chunked, scan, rtol=1e-10, atol=1e-12) for chunked, scan in pairs)
