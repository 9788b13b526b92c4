"""Checkpoints: safetensors, and the recipe with orbax."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import linen as nn

import gruflax
from gruflax import convert


class Model(nn.Module):
    """A stateful model with a level of names."""

    @nn.compact
    def __call__(self, x):
        x = gruflax.GRU(5, stateful=True, return_sequences=True, name="gru")(x)
        return nn.Dense(2, param_dtype=jnp.bfloat16)(x)


@pytest.fixture
def model(x, drawn):
    """A model, its variables after a step that left a state, and its next outputs."""
    model = Model()
    variables = drawn(model.init(jax.random.key(0), x))
    _, state = model.apply(variables, x, mutable=["recurrent_state"])
    variables = {**variables, **state}
    return model, variables, model.apply(variables, x)


def test_round_trip(model, x, tmp_path, equal):
    model, variables, wanted = model
    path = tmp_path / "model.safetensors"
    convert.save_safetensors(path, variables)
    assert sorted(safetensors.numpy.load_file(path)) == [
        "params.Dense_0.bias",
        "params.Dense_0.kernel",
        "params.gru.bias",
        "params.gru.kernel",
        "params.gru.recurrent_kernel",
        "recurrent_state.gru.h",
    ]
    assert list(tmp_path.iterdir()) == [path]
    for template in (None, variables, jax.eval_shape(model.init, jax.random.key(0), x)):
        loaded = convert.load_safetensors(path, template)
        equal(loaded, variables)
        np.testing.assert_array_equal(model.apply(loaded, x), wanted)


def test_memory_of_another_order(tmp_path, random):
    """The format takes memory as it lies: a transposed view must not be saved as it lies."""
    view = random.normal(size=(3, 4)).T
    convert.save_safetensors(tmp_path / "view.safetensors", {"params": {"kernel": view}})
    loaded = convert.load_safetensors(tmp_path / "view.safetensors")
    np.testing.assert_array_equal(loaded["params"]["kernel"], view)


def test_states_of_several_arrays(tmp_path, random, equal):
    states = tuple(random.normal(size=(2, size)) for size in (3, 4))
    variables = {"recurrent_state": {"h": states}}
    convert.save_safetensors(tmp_path / "states.safetensors", variables)
    equal(convert.load_safetensors(tmp_path / "states.safetensors", variables), variables)


def test_a_file_that_does_not_fit_changes_nothing(model, tmp_path, equal):
    model, variables, _ = model
    path = tmp_path / "model.safetensors"
    convert.save_safetensors(path, variables)
    before = jax.tree.map(np.array, variables)
    arrays = safetensors.numpy.load_file(path)
    kernel = arrays["params.gru.kernel"]

    def refused(message, **changed):
        changed = {key.replace("__", "."): value for key, value in changed.items()}
        merged = {key: value for key, value in (arrays | changed).items() if value is not None}
        safetensors.numpy.save_file(merged, path)
        with pytest.raises(ValueError, match=message):
            convert.load_safetensors(path, variables)
        equal(variables, before)

    refused(
        r"params.gru.kernel in .* must be float32 \(4, 15\), got float32 \(5, 15\)",
        params__gru__kernel=np.zeros((5, 15), np.float32),
    )
    refused(
        r"params.gru.kernel in .* must be float32 \(4, 15\), got float64 \(4, 15\)",
        params__gru__kernel=kernel.astype(np.float64),
    )
    refused(r"missing=\['params.gru.kernel'\], unknown=\[\]", params__gru__kernel=None)
    refused(r"missing=\[\], unknown=\['params.lstm'\]", params__lstm=kernel)
    safetensors.numpy.save_file({"a": kernel, "a.b": kernel}, path)
    with pytest.raises(ValueError, match="must not name 'a' both array and owner of 'a.b'"):
        convert.load_safetensors(path)


def test_truncated_files(model, tmp_path, equal):
    _, variables, _ = model
    path = tmp_path / "model.safetensors"
    convert.save_safetensors(path, variables)
    before, whole = jax.tree.map(np.array, variables), path.read_bytes()
    huge = (2**40).to_bytes(8, "little") + json.dumps({}).encode()
    for damaged in (b"", whole[:5], whole[:60], whole[:-1], b"x" * 200, huge):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="model.safetensors must be a whole safetensors file"):
            convert.load_safetensors(path, variables)
    equal(variables, before)
    with pytest.raises(FileNotFoundError):
        convert.load_safetensors(tmp_path / "missing.safetensors")


def test_what_cannot_be_saved_leaves_the_file(model, tmp_path):
    _, variables, _ = model
    path = tmp_path / "model.safetensors"
    convert.save_safetensors(path, variables)
    whole = path.read_bytes()
    for wrong, error, message in (
        ({"a.b": np.zeros(3)}, ValueError, r"without dots and not empty, got \['params', 'a.b'\]"),
        ({"": np.zeros(3)}, ValueError, "without dots and not empty"),
        ({"a": "text"}, TypeError, "params.a must be an array of numbers of .*, got 'text'"),
        ({"a": jax.random.key(0)}, TypeError, "params.a must be an array of numbers"),
    ):
        with pytest.raises(error, match=message):
            convert.save_safetensors(path, {"params": wrong})
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    path.mkdir()
    with pytest.raises(OSError):
        convert.save_safetensors(path, {"params": {"a": np.zeros(3)}})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore")
def test_orbax(model, x, tmp_path, equal):
    """The README's recipe."""
    model, variables, wanted = model
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step_1", variables)
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "step_1", like)
    equal(restored, variables)
    np.testing.assert_array_equal(model.apply(restored, x), wanted)
    assert model.apply(restored, x, mutable=["recurrent_state"])[1]["recurrent_state"]
