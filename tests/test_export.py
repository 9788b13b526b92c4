"""Deployment: a function that runs without gruflax, for any batch and any time."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import gruflax


RUNNER = """
import sys
sys.modules["gruflax"] = sys.modules["flax"] = None  # importing either raises an ImportError
import jax, numpy as np
from jax import export

folder = sys.argv[1]
run = export.deserialize(bytearray(open(f"{folder}/gru.stablehlo", "rb").read())).call
arrays = np.load(f"{folder}/arrays.npz")
outputs, state = run(arrays["x"], arrays["h"])
np.testing.assert_allclose(outputs, arrays["outputs"], atol=2e-6)
np.testing.assert_allclose(state, arrays["state"], atol=2e-6)
for row in range(len(arrays["x"])) if len(sys.argv) == 2 else ():
    state = arrays["h"][row : row + 1]
    for step in range(arrays["x"].shape[1]):
        output, state = run(arrays["x"][row : row + 1, step : step + 1], state)
        np.testing.assert_allclose(output[0, 0], arrays["outputs"][row, step], atol=2e-6)
print("ran", len(arrays["x"]))
"""


@pytest.fixture
def random():
    """The same numbers for a test, whichever ran before."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def layer():
    """A layer that takes and returns its state, and random variables.

    They are small enough that forty steps do not multiply what two loops round differently.
    """
    gru = gruflax.GRU(5, return_sequences=True, return_state=True)
    variables = gru.init(jax.random.key(0), jnp.zeros((1, 1, 4)))
    random = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype)  # noqa: E731
    return gru, jax.tree.map(draw, variables)


def exported(gru, variables, **options):
    """The README's recipe."""
    b, t = export.symbolic_shape("b, t")
    inputs = jax.ShapeDtypeStruct((b, t, 4), jnp.float32)
    state = jax.ShapeDtypeStruct((b, gru.units), jnp.float32)
    run = jax.jit(lambda x, h: gru.apply(variables, x, initial_state=h))
    return export.export(run, **options)(inputs, state).serialize()


def arrays(random, batch, time):
    x = random.normal(size=(batch, time, 4)).astype(np.float32)
    return x, random.normal(size=(batch, 5)).astype(np.float32)


def test_any_batch_and_time(layer, random):
    gru, variables = layer
    for reset_after in (True, False):
        bias = variables["params"]["bias"]
        params = variables["params"] | {"bias": bias if reset_after else bias[0]}
        each = gru.clone(reset_after=reset_after)
        run = export.deserialize(exported(each, {"params": params})).call
        for batch, time in ((1, 1), (3, 7), (2, 40)):
            x, h = arrays(random, batch, time)
            wanted = each.apply({"params": params}, x, initial_state=h)
            for left, right in zip(run(x, h), wanted, strict=True):
                np.testing.assert_allclose(left, right, atol=2e-6)


def test_masks_and_lengths(layer, random):
    gru, variables = layer
    b, t = export.symbolic_shape("b, t")
    inputs = jax.ShapeDtypeStruct((b, t, 4), jnp.float32)
    mask = jax.ShapeDtypeStruct((b, t), bool)
    run = jax.jit(lambda x, mask: gru.apply(variables, x, mask=mask))
    run = export.deserialize(export.export(run)(inputs, mask).serialize()).call
    x, _ = arrays(random, 3, 7)
    mask = random.random((3, 7)) < 0.6
    for left, right in zip(run(x, mask), gru.apply(variables, x, mask=mask), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-6)


def test_without_gruflax(layer, random, tmp_path):
    """In a process of its own: whole sequences, and one step at a time for one row."""
    gru, variables = layer
    (tmp_path / "gru.stablehlo").write_bytes(exported(gru, variables))
    x, h = arrays(random, 3, 6)
    outputs, state = gru.apply(variables, x, initial_state=h)
    np.savez(tmp_path / "arrays.npz", x=x, h=h, outputs=outputs, state=state)
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "ran 3\n", done.stderr


def test_for_other_platforms(layer):
    data = exported(*layer, platforms=("cpu", "cuda", "tpu"))
    assert export.deserialize(data).platforms == ("cpu", "cuda", "tpu")


def test_any_batch_of_sequences_of_one_length(layer, random):
    gru, variables = layer
    (b,) = export.symbolic_shape("b")
    for time in (1, 7):
        inputs = jax.ShapeDtypeStruct((b, time, 4), jnp.float32)
        run = jax.jit(lambda x: gru.apply(variables, x))
        run = export.deserialize(export.export(run)(inputs).serialize()).call
        x, _ = arrays(random, 3, time)
        for left, right in zip(run(x), gru.apply(variables, x), strict=True):
            np.testing.assert_allclose(left, right, atol=2e-6)


def test_the_product_is_chosen_where_the_bytes_run(layer, random):
    """Of a step with few rows: one form for CPUs and one for others, in one program."""
    gru, variables = layer
    gru = gru.clone(loop="chunked")
    x, h = arrays(random, 3, 7)

    def loss(variables):
        outputs, state = gru.apply(variables, x, initial_state=h)
        return (outputs**2).sum() + state.sum()

    gradient = jax.jit(jax.grad(loss))
    data = export.export(gradient, platforms=("cpu", "cuda", "tpu"))(variables).serialize()
    found, wanted = export.deserialize(data).call(variables), gradient(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)


def test_a_symbolic_number_of_members(layer, random):
    gru, variables = layer
    x, h = arrays(random, 2, 7)
    (m,) = export.symbolic_shape("m")
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), variables)
    types = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((m, *leaf.shape[1:]), leaf.dtype), many)

    def gradient(many):
        run = jax.vmap(lambda each: gru.apply(each, x, initial_state=h)[0])
        return jax.grad(lambda many: (run(many) ** 2).sum())(many)

    run = export.deserialize(export.export(jax.jit(gradient))(types).serialize()).call
    found, wanted = run(many), jax.jit(gradient)(many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


def test_default_loops_with_fixed_sizes(layer, random, tmp_path):
    """The native loop gives way by itself: the bytes run where there is no gruflax."""
    gru, variables = layer
    x, h = arrays(random, 3, 7)

    def run(x, h):
        return gru.apply(variables, x, initial_state=h)

    def gradient(x, h):
        loss = lambda x, h: sum((each**2).sum() for each in run(x, h))  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(x, h)

    def members(x, h):
        many = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), variables)
        outputs, state = jax.vmap(lambda each: gru.apply(each, x, initial_state=h))(many)
        return outputs[1], state[1]

    for function in (run, gradient, members):
        data = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(x, h)
        (tmp_path / "gru.stablehlo").write_bytes(data.serialize())
        outputs, state = jax.jit(function)(x, h)
        np.savez(tmp_path / "arrays.npz", x=x, h=h, outputs=outputs, state=state)
        command = [sys.executable, "-c", RUNNER, str(tmp_path), "whole"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout == "ran 3\n", done.stderr
