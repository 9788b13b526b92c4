"""Damaged and hostile input: the documented error, whatever it is, and nothing else."""

import json
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import gruflax
from gruflax import convert


GRU = {"class_name": "GRU", "config": {"name": "gru", "units": 4}}
SHAPES = ((3, 12), (4, 12), (2, 12))


def of(layer):
    """A model's config with one layer."""
    return {"class_name": "Sequential", "config": {"layers": [layer]}}


def changed(**config):
    return of({"class_name": "GRU", "config": GRU["config"] | config})


def write_weights(path, arrays):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/gru/cell/vars")
        for index, array in enumerate(arrays):
            group[str(index)] = array
    return path


def write_keras(folder, config, arrays=None):
    """Writes a `.keras` file; the config may be any text."""
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape) for shape in SHAPES] if arrays is None else arrays
    weights = write_weights(folder / "weights.h5", arrays)
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        text = config if isinstance(config, str) else json.dumps(config)
        archive.writestr("config.json", text)
        archive.write(weights, "model.weights.h5")
    return path


def test_the_file_that_is_not_hostile(tmp_path):
    module, variables = convert.from_keras(write_keras(tmp_path, of(GRU)))
    assert module.units == 4 and variables["params"]["bias"].shape == (2, 12)


NESTED = GRU
for _ in range(300):
    NESTED = of(NESTED)

CONFIGS = {
    "list": [],
    "null": None,
    "no JSON": "{",
    "deep JSON": '{"a":' * 100_000,
    "nested models": NESTED,
    "null layer": of(None),
    "layers no list": {"class_name": "Sequential", "config": {"layers": 3}},
    "no config": of({"class_name": "GRU"}),
    "null config": of({"class_name": "GRU", "config": None}),
    "class no name": of({"class_name": ["GRU"], "config": {}}),
    "name no text": changed(name=["gru"]),
    "no units": of({"class_name": "GRU", "config": {"name": "gru"}}),
    "other units": changed(units=7),
    "units no number": changed(units="4"),
    "rate no number": changed(dropout="0.5"),
    "flag no bool": changed(return_sequences="no"),
    "unknown key": changed(depth=2),
    "activation no name": changed(activation={"class_name": 3}),
    "regularizer no number": changed(
        bias_regularizer={"class_name": "L2", "config": {"l2": "much"}}
    ),
    "dtype no dtype": changed(dtype=[3]),
    "pair of nothing": of({"class_name": "Bidirectional", "config": {"name": "gru"}}),
    "cells no list": of(
        {
            "class_name": "RNN",
            "config": {
                "name": "gru",
                "cell": {"class_name": "StackedRNNCells", "config": {"cells": 3}},
            },
        }
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_keras(name, tmp_path):
    with pytest.raises(ValueError) as error:
        convert.from_keras(write_keras(tmp_path, CONFIGS[name]))
    assert len(str(error.value)) < 1500


def in_file(build):
    """A `.weights.h5` file that `build` fills."""

    def write(folder):
        path = folder / "model.weights.h5"
        with h5py.File(path, "w") as file:
            build(file)
        return path

    return write


def unwritten(compression):
    def build(file):
        group = file.create_group("layers/gru/cell/vars")
        for index, shape in enumerate(((10**6, 3 * 10**6), (10**6, 3 * 10**6))):
            group.create_dataset(str(index), shape, np.float32, compression=compression)

    return build


def hard_cycle(file):
    layers = file.create_group("layers")
    layers.create_group("a")["layers"] = layers


def soft_cycle(file):
    file.create_group("layers/a")["layers"] = h5py.SoftLink("/layers")


def loop(file):
    file["layers"] = h5py.SoftLink("/layers")


def groups_for_arrays(file):
    for name in "01":
        file.create_group(f"layers/gru/cell/vars/{name}")


def array_for_a_group(file):
    file["layers"] = np.ones(3)


def names_no_list(file):
    file.attrs["layer_names"] = 3


def names_no_numbers(file):
    file.create_group("layers/gru/cell/vars")["kernel"] = np.ones(3)


def names_of_nothing(file):
    file.attrs["layer_names"] = [b"gru"]
    file.create_group("gru").attrs["weight_names"] = [b"kernel"]


FILES = {
    "byte strings": lambda folder: write_keras(folder, of(GRU), [b"a", b"b"]),
    "integers": lambda folder: write_keras(folder, of(GRU), [np.ones(s, int) for s in SHAPES]),
    "scalars": lambda folder: write_keras(folder, of(GRU), [np.float32(1)] * 3),
    "huge": in_file(unwritten(None)),
    "huge and compressed": in_file(unwritten("gzip")),
    "hard cycle": in_file(hard_cycle),
    "soft cycle": in_file(soft_cycle),
    "loop": in_file(loop),
    "groups for arrays": in_file(groups_for_arrays),
    "array for a group": in_file(array_for_a_group),
    "names no list": in_file(names_no_list),
    "no numbers for names": in_file(names_no_numbers),
    "names of nothing": in_file(names_of_nothing),
    "folder": lambda folder: folder,
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_keras(name, tmp_path):
    with pytest.raises(ValueError):
        convert.from_keras(FILES[name](tmp_path))


def test_files_that_are_not_there(tmp_path):
    readers = (convert.from_keras, convert.from_onnx, convert.load_safetensors)
    for read in readers:
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")


def onnx_model(arrays=(), **attributes):
    """A model with one GRU node, and more or other constants."""
    random = np.random.default_rng(0)
    constants = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (("W", (1, 12, 3)), ("R", (1, 12, 4)), ("B", (1, 24)))
    } | dict(arrays)
    inputs = ["X", "W", "R", "B", *(name if name in constants else "" for name in ("L", "H"))]
    node = onnx.helper.make_node("GRU", inputs, ["Y", "Y_h"], name="gru", **attributes)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "XY"
    ]
    graph = onnx.helper.make_graph(
        [node],
        "g",
        values[:1],
        values[1:],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph)


def external(model):
    """Moves the numbers of W to a file outside."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    return model


def without_shape(model):
    del model.graph.initializer[0].dims[:]
    return model


ONE = np.ones((1, 12, 3), np.float32)
MODELS = {
    "initial_h": (
        lambda: onnx_model({"H": np.eye(4, dtype=np.float32)[None]}),
        "initial_h .* constant .* 'H' differs from row to row",
    ),
    "state of a shape": (
        lambda: onnx_model({"H": np.ones((1, 2, 5), np.float32)}),
        "'H' has no rows",
    ),
    "state of no rank": (lambda: onnx_model({"H": np.float32(1)}), "initial_h"),
    "no batch": (lambda: onnx_model({"H": np.ones((1, 0, 4), np.float32)}), "'H' has no rows"),
    "lengths": (lambda: onnx_model({"L": np.ones(2, np.int32)}), "sequence_lens .* constant"),
    "direction": (lambda: onnx_model(direction="sideways"), "direction must be one of .*sideways"),
    "one of two": (lambda: onnx_model(direction="bidirectional"), "must have 2 directions, got"),
    "two of one": (lambda: onnx_model({"R": np.ones((2, 12, 4), np.float32)}), "have 1 direct"),
    "integers": (lambda: onnx_model({"W": ONE.astype(np.int32)}), "kernel must be .* floats"),
    "hidden_size": (lambda: onnx_model(hidden_size=7), "hidden_size must be that of R, 4, got 7"),
    "no shape": (lambda: without_shape(onnx_model()), "reshape"),
    "external": (lambda: external(onnx_model()), "relative path"),
    "clip": (lambda: onnx_model(clip=3.0), "clip of the GRU node must be absent, got 3.0"),
    "another attribute": (lambda: onnx_model(other=3.0), r"no attributes but .*, got \['other'\]"),
    "one activation": (lambda: onnx_model(activations=["Tanh"]), "activations must be 2 names"),
    "unknown activation": (
        lambda: onnx_model(activations=["Tanh", "Sinh"]),
        r"activations must be of .*, got \['Sinh'\]",
    ),
    "direction no text": (lambda: onnx_model(direction=3), "whole ONNX model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_onnx(name, tmp_path):
    make, message = MODELS[name]
    with pytest.raises(ValueError, match=message):
        convert.from_onnx(make())
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ValueError):
        convert.from_onnx(tmp_path / "model.onnx")


def test_models_of_onnx_that_are_not_hostile():
    zeros = onnx_model({"H": np.zeros((1, 2, 4), np.float32)})
    zeros.graph.node.append(onnx.helper.make_node("Constant", [], ["empty"]))
    module, variables = convert.from_onnx(zeros)
    assert module.units == 4 and set(variables) == {"params"}


@pytest.mark.parametrize(
    "leaf",
    [
        "text",
        np.array(["text"]),
        np.array([object()]),
        jnp.ones(2, jnp.float8_e4m3fn),
        np.ones(2, complex),
        jax.random.key(0),
    ],
    ids=["str", "str array", "object", "float8", "complex", "key"],
)
def test_what_safetensors_has_no_place_for(leaf, tmp_path):
    with pytest.raises(TypeError, match="params.a must be an array of numbers of .*, got"):
        convert.save_safetensors(tmp_path / "file", {"params": {"a": leaf}})
    assert not list(tmp_path.iterdir())


def test_dtypes_of_safetensors_that_numpy_does_not_have(tmp_path):
    entry = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    header = json.dumps(entry).encode()
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        convert.load_safetensors(tmp_path / "file")


@pytest.mark.parametrize(
    "read",
    [
        lambda: convert.from_flax_linen(None),
        lambda: convert.from_flax_linen(
            {gate: np.ones(3) for gate in ("ir", "iz", "in", "hr", "hz", "hn")}
        ),
        lambda: convert.from_flax_nnx(
            {"dense_i": {"kernel": "a", "bias": "b"}, "dense_h": {"kernel": "c"}}
        ),
        lambda: convert.from_haiku(None),
        lambda: convert.from_haiku({"w_i": "a", "w_h": "b", "b": "c"}),
        lambda: convert.from_equinox({"weight_ih": 1, "weight_hh": 2, "bias": 3, "bias_n": 4}),
        lambda: convert.from_torch({"weight_ih_l0": "a", "weight_hh_l0": np.ones(3)}),
        lambda: convert.from_keras(["a", "b"]),
    ],
)
def test_arrays_that_are_none(read):
    with pytest.raises(ValueError):
        read()


@pytest.mark.parametrize(
    "name", ["torch", "keras", "onnx", "haiku", "flax_linen", "flax_nnx", "equinox"]
)
def test_weights_of_other_units(name):
    variables = gruflax.GRU(4).init(jax.random.key(0), np.ones((2, 5, 3), np.float32))
    with pytest.raises(ValueError, match="params must be of units=7, got those of 4 units"):
        getattr(convert, f"to_{name}")(gruflax.GRU(7), variables)
