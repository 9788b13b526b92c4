"""Checkpoints: safetensors, and the recipe with orbax."""

import json
from typing import NamedTuple

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
    _, state = called(model, variables, x)
    variables = {**variables, **state}
    return model, variables, called(model, variables, x)[0]


def called(model, variables, x):
    """The outputs and the new state."""
    return model.apply(variables, x, mutable=["recurrent_state"])


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
        np.testing.assert_array_equal(called(model, loaded, x)[0], wanted)


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


def numbered(count):
    """Arrays that say which they are."""
    return [np.full((1, 2), index, np.float32) for index in range(count)]


class Pair(NamedTuple):
    """A node of a tree that is no dict, tuple or list."""

    left: np.ndarray
    right: tuple


TREES = {
    "tuple": {"h": tuple(numbered(12))},
    "list": {"h": numbered(12)},
    "nested": {"h": {"a": [tuple(numbered(12)), {"b": tuple(numbered(11))}], "c": numbered(1)[0]}},
    "digits": {"h": dict(zip(map(str, range(12)), numbered(12), strict=True))},
    "mixed": {"10": tuple(numbered(12)), "2": {"1": numbered(11), "0": numbered(1)[0]}},
    "integers": {"h": dict(enumerate(numbered(12)))},
    "empty": {"h": (numbered(1)[0], {}, (), None, [numbered(1)[0]]), "params": {}},
}


@pytest.mark.parametrize("kind", TREES)
def test_trees_come_back_as_they_were(kind, tmp_path, equal):
    path, variables = tmp_path / "tree.safetensors", TREES[kind]
    convert.save_safetensors(path, variables)
    equal(convert.load_safetensors(path), variables)
    equal(convert.load_safetensors(path, variables), variables)


def test_other_nodes_are_dicts_without_a_template(tmp_path, equal):
    path, pair = tmp_path / "tree.safetensors", Pair(numbered(1)[0], tuple(numbered(11)))
    convert.save_safetensors(path, {"pair": pair})
    equal(convert.load_safetensors(path), {"pair": pair._asdict()})
    equal(convert.load_safetensors(path, {"pair": pair}), {"pair": pair})


@pytest.mark.parametrize(
    "module",
    [
        gruflax.Stack([gruflax.GRU(2, stateful=True, return_sequences=True) for _ in range(12)]),
        gruflax.RNN([gruflax.GRUCell(2) for _ in range(12)], stateful=True),
    ],
    ids=["Stack", "RNN"],
)
def test_twelve_states(module, tmp_path, x, equal):
    def begin(key):
        return module.apply(module.init(key, x), x, mutable=True)[1]

    shapes = jax.eval_shape(begin, jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    counted = [np.full(leaf.shape, i, leaf.dtype) for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(structure, counted)
    assert len(jax.tree.leaves(variables["recurrent_state"])) == 12
    convert.save_safetensors(tmp_path / "deep.safetensors", variables)
    for template in (None, shapes):
        loaded = convert.load_safetensors(tmp_path / "deep.safetensors", template)
        equal(loaded, variables)
        assert [leaf.max() for leaf in jax.tree.leaves(loaded)] == list(range(len(leaves)))


def test_files_that_do_not_say_what_was_saved(tmp_path, equal):
    """Of gruflax 0.1, or of another program."""
    path = tmp_path / "tree.safetensors"
    first, *others = numbered(13)
    arrays = {f"state.h.{index}": array for index, array in enumerate(others)}
    safetensors.numpy.save_file(arrays | {"0": first, "params.2": first}, path, {"format": "np"})
    wanted = {"0": first, "state": {"h": tuple(others)}, "params": {"2": first}}
    equal(convert.load_safetensors(path), wanted)
    equal(convert.load_safetensors(path, wanted), wanted)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ('{"dict": [["a", "b"]]}', r"missing=\['b'\], unknown=\['a'\]"),
        ('{"dict": []}', r"missing=\[\], unknown=\['a'\]"),
        ('"a"', "the tree in the metadata of .* must be a dict, got 'a'"),
        ('{"tuple": ["a"]}', "the tree in the metadata of .* must be a dict, got a tuple"),
        ('{"set": ["a"]}', "the tree in the metadata of .* must be whole"),
        ('{"dict": [[["a"], "a"]]}', "the tree in the metadata of .* must be whole"),
        ('{"dict": [["a", 3]]}', "the tree in the metadata of .* must be whole"),
        ("{", "the tree in the metadata of .* must be JSON"),
        ('{"list": [' * 5000, "the tree in the metadata of .* must be JSON"),
    ],
    ids=range(9),
)
def test_trees_that_are_none(tree, message, tmp_path):
    path = tmp_path / "tree.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3)}, path, {"gruflax.tree": tree})
    with pytest.raises(ValueError, match=message):
        convert.load_safetensors(path)


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
    outputs, state = called(model, restored, x)
    np.testing.assert_array_equal(outputs, wanted)
    assert state["recurrent_state"]
