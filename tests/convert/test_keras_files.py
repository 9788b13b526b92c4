"""Files: written here by Keras, or by hand as older releases wrote them."""

import json
import zipfile

import h5py
import jax
import keras
import numpy as np
import pytest

import gruflax
from gruflax import convert
from gruflax.compat import v1
from gruflax.linen import Bidirectional


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model():
    """A model with a GRU in a model, a pair and a cell, random weights."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return random_model()


def random_model():
    inner = keras.Sequential(
        [
            keras.Input((None, 4)),
            keras.layers.GRU(3, return_sequences=True, name="first"),
            keras.layers.GRU(5, return_sequences=True, name="second", activation="relu"),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            inner,
            keras.layers.LSTM(2, return_sequences=True),
            keras.layers.Bidirectional(
                keras.layers.GRU(2, return_sequences=True, reset_after=False), name="pair"
            ),
            keras.layers.RNN(keras.layers.GRUCell(4, use_bias=False), name="cell"),
            keras.layers.Dense(2),
        ],
        name="outer",
    )
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=each.shape) for each in model.get_weights()])
    return model


def layer_of(model, name):
    owner = model.get_layer("inner") if name in ("first", "second") else model
    return owner.get_layer(name)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_files(suffix, model, tmp_path, x, equal, close):
    path = tmp_path / f"model{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    for name in ("first", "second", "pair", "cell"):
        theirs = layer_of(model, name)
        fields = {}
        if suffix == ".weights.h5":
            fields = {"return_sequences": name != "cell"}
            fields |= {"activation": "relu"} if name == "second" else {}
        module, variables = convert.from_keras(path, name, **fields)
        equal(convert.to_keras(module, variables), theirs.get_weights())
        inputs = np.resize(x, (3, 6, theirs.input.shape[-1]))
        close(module.apply(variables, inputs), theirs(inputs))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_stacked_cells(suffix, tmp_path, x, drawn, equal, close):
    # Eleven, for "gru_cell_10" comes before "gru_cell_2" where names are sorted.
    cells = [keras.layers.GRUCell(3, use_bias=index != 1) for index in range(11)]
    stacked = keras.layers.RNN(keras.layers.StackedRNNCells(cells), name="deep")
    model = keras.Sequential([keras.Input((None, 4)), stacked])
    model.set_weights(drawn(model.get_weights()))
    model.save(tmp_path / f"model{suffix}")
    module, variables = convert.from_keras(tmp_path / f"model{suffix}")
    equal(convert.to_keras(module, variables), stacked.get_weights())
    close(module.apply(variables, x), stacked(x))


def test_lists_of_names_that_keras_cut(model, tmp_path, equal):
    """As it does from 64 KiB on, an attribute's most."""
    path = tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        attributes = file["model_weights"].attrs
        names = attributes.pop("layer_names")
        attributes["layer_names0"], attributes["layer_names1"] = names[:2], names[2:]
    # One of either part.
    for name in ("first", "pair"):
        module, variables = convert.from_keras(path, name)
        equal(convert.to_keras(module, variables), layer_of(model, name).get_weights())


def test_choice_of_the_layer(model, tmp_path, equal):
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"layers: \['cell', 'first', 'pair', 'second'\], got No"):
        convert.from_keras(str(tmp_path / "model.keras"))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"\['cell', 'first', 'pair', 'second'\], got 'gru'"):
        convert.from_keras(tmp_path / "model.weights.h5", "gru")
    path = "layers/sequential/layers/gru_1"
    _, variables = convert.from_keras(tmp_path / "model.weights.h5", path)
    equal(list(variables["params"].values()), layer_of(model, "second").get_weights())


def test_two_models_with_layers_of_one_name(tmp_path, random, x, equal):
    models = [
        keras.Sequential([keras.Input((None, 4)), keras.layers.GRU(4, name="gru")])
        for _ in range(2)
    ]
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Add()([each(inputs) for each in models]))
    model.set_weights([random.normal(size=each.shape) for each in model.get_weights()])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for suffix in (".keras", ".weights.h5"):
        path = tmp_path / f"model{suffix}"
        with pytest.raises(ValueError, match="name must be .*/gru', .*/gru'\\], got 'gru'"):
            convert.from_keras(path, "gru")
        for index, group in enumerate(("sequential", "sequential_1")):
            _, variables = convert.from_keras(path, f"layers/{group}/layers/gru")
            equal(list(variables["params"].values()), models[index].get_weights())


def test_bfloat16(tmp_path, x, equal):
    layer = keras.layers.GRU(5, dtype="bfloat16", recurrent_initializer="glorot_normal")
    model = keras.Sequential([keras.Input((None, 4)), layer])
    model.save(tmp_path / "model.keras")
    module, variables = convert.from_keras(tmp_path / "model.keras")
    assert variables["params"]["kernel"].dtype == module.param_dtype == "bfloat16"
    equal(convert.to_keras(module, variables), [np.asarray(each) for each in layer.weights])


def write_legacy(path, layers, config=True, scope="", version=b"2.2.4-tf"):
    """Writes what Keras 2.2 in TensorFlow 1 wrote: names as bytes, variables as "gru/kernel:0"."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if config else file
        if version is not None:
            root.attrs["keras_version"] = version
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, (_, _, arrays) in layers.items():
            names = [f"{name}/{scope}{variable}:0" for variable in arrays]
            group = root.create_group(name)
            group.attrs["weight_names"] = [each.encode() for each in names]
            for each, array in zip(names, arrays.values(), strict=True):
                group[each] = array
        if config:
            entries = [
                {"class_name": kind, "config": {"name": name, **layer}}
                for name, (kind, layer, _) in layers.items()
            ]
            model = {"class_name": "Sequential", "config": {"name": "m", "layers": entries}}
            file.attrs["model_config"] = json.dumps(model).encode()


def tensorflow_1(x, drawn, **arguments):
    """A layer of TensorFlow 1 as gruflax's own has it, which is tested against recorded arrays."""
    gru = v1.GRU(5, return_sequences=True, **arguments)
    params = drawn(gru.init(jax.random.key(0), x))["params"]
    order = [name for name in ("kernel", "recurrent_kernel", "bias") if name in params]
    written = {key: value for key, value in gru.get_config().items() if key != "name"}
    return gru, {name: params[name] for name in order}, written


@pytest.mark.parametrize("pair", [False, True], ids=["GRU", "Bidirectional"])
def test_hard_sigmoid_of_a_file_of_weights(pair, tmp_path, x, drawn, close):
    gru, params, _ = tensorflow_1(x, drawn)
    arrays = params
    if pair:
        ways = ("forward_gru", "backward_gru")
        arrays = {f"{way}/{name}": params[name] for way in ways for name in params}
    path = tmp_path / "model.weights.h5"
    # Keras 1 wrote no version.
    versions = {b"2.2.4-tf": True, "2.11.0": True, "2.16.0": True, None: True, "3.0.5": False}
    for version, old in versions.items():
        write_legacy(path, {"gru": ("", {}, arrays)}, config=False, version=version)
        wanted = v1.hard_sigmoid if old else "hard_sigmoid"
        module, _ = convert.from_keras(path, recurrent_activation="hard_sigmoid")
        assert (module.layer if pair else module).recurrent_activation == wanted
        module, _ = convert.from_keras(path, recurrent_activation=jax.nn.hard_sigmoid)
        assert (module.layer if pair else module).recurrent_activation == "hard_sigmoid"
    if not pair:
        write_legacy(path, {"gru": ("", {}, arrays)}, config=False)
        module, variables = convert.from_keras(
            path, recurrent_activation="hard_sigmoid", return_sequences=True
        )
        close(module.apply(variables, x), gru.apply({"params": params}, x))
    write_legacy(path, {"gru": ("", {}, arrays)}, config=False, version="new")
    with pytest.raises(ValueError, match="keras_version must be like '2.11.0', got 'new'"):
        convert.from_keras(path)


def test_hard_sigmoid_of_an_archive_of_keras_2(tmp_path, x, drawn, close):
    """As tf-keras 2.15 writes it."""
    gru, params, written = tensorflow_1(x, drawn)
    entry = {"class_name": "GRU", "module": "keras.layers", "registered_name": None}
    layers = [entry | {"config": written | {"name": "gru"}}]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        group = file.create_group("layers/gru/cell/vars")
        for index, array in enumerate(params.values()):
            group[str(index)] = array
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    module, variables = convert.from_keras(tmp_path / "model.keras", implementation=2)
    assert module.recurrent_activation is v1.hard_sigmoid
    close(module.apply(variables, x), gru.apply({"params": params}, x))


@pytest.mark.parametrize("scope", ["", "gru_cell/"])
def test_tensorflow_1(scope, tmp_path, x, drawn, equal, close):
    gru, params, written = tensorflow_1(x, drawn)
    assert written["recurrent_activation"] == "hard_sigmoid" and not written["reset_after"]
    layers = {
        "dense": ("Dense", {"units": 4}, {"kernel": x[0], "bias": x[0, 0]}),
        "gru": ("GRU", written, params),
    }
    write_legacy(tmp_path / "model.h5", layers, scope=scope)
    module, variables = convert.from_keras(tmp_path / "model.h5")
    equal(variables["params"], params)
    close(module.apply(variables, x), gru.apply({"params": params}, x))
    write_legacy(tmp_path / "weights.h5", layers, config=False, scope=scope)
    module, variables = convert.from_keras(tmp_path / "weights.h5", "gru")
    assert (module.reset_after, module.units) == (False, 5)
    equal(variables["params"], params)


def test_cudnn(tmp_path, x, drawn, equal):
    params = drawn(gruflax.GRU(5).init(jax.random.key(0), x))["params"]
    kernel = np.concatenate(
        [gate.T.ravel().reshape(gate.shape) for gate in np.split(params["kernel"], 3, -1)], -1
    )
    recurrent = np.concatenate([gate.T for gate in np.split(params["recurrent_kernel"], 3, -1)], -1)
    arrays = {"kernel": kernel, "recurrent_kernel": recurrent, "bias": params["bias"].ravel()}
    layers = {"cu_dnngru": ("CuDNNGRU", {"units": 5, "return_sequences": True}, arrays)}
    write_legacy(tmp_path / "model.h5", layers)
    module, variables = convert.from_keras(tmp_path / "model.h5")
    assert module.reset_after and module.return_sequences
    equal(variables["params"], params)


def test_damaged_files(model, tmp_path, x):
    for suffix in (".keras", ".weights.h5", ".h5"):
        whole = tmp_path / f"whole{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(whole)
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(whole.read_bytes()[:-2000])
        with pytest.raises(ValueError, match=r"damaged\S* must be a whole .keras"):
            convert.from_keras(damaged, "first")
    (tmp_path / "text.h5").write_text("no file of Keras")
    with pytest.raises(ValueError, match="text.h5 must be a whole .keras"):
        convert.from_keras(tmp_path / "text.h5")
    with pytest.raises(FileNotFoundError):
        convert.from_keras(tmp_path / "missing.h5")


def test_files_that_reach_for_others(tmp_path, x, drawn):
    _, params, written = tensorflow_1(x, drawn)
    write_legacy(tmp_path / "other.h5", {"gru": ("GRU", written, params)})
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink("other.h5", "/model_weights")
    with pytest.raises(ValueError, match="the file must hold its arrays itself, model_weights is"):
        convert.from_keras(tmp_path / "linked.h5")
    write_legacy(tmp_path / "external.h5", {"gru": ("GRU", written, params)})
    with h5py.File(tmp_path / "external.h5", "a") as file:
        group = file["model_weights/gru/gru"]
        del group["kernel:0"]
        secret = [(str(tmp_path / "other.h5"), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset("kernel:0", (4, 15), np.float32, external=secret)
    with pytest.raises(ValueError, match="the file must hold its arrays itself, /model_weights/g"):
        convert.from_keras(tmp_path / "external.h5")


def write_weights_of_keras_2(path, layers, config=None):
    """Writes what Keras 2 wrote: the arrays of the cells of each layer, by the names of these."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if config else file
        root.attrs["keras_version"] = "2.15.0"
        root.attrs["layer_names"] = list(layers)
        for layer, cells in layers.items():
            group = root.create_group(layer)
            names = []
            for cell, arrays in cells.items():
                for variable, array in arrays.items():
                    names.append(f"{cell}/{variable}:0")
                    group[names[-1]] = array
            group.attrs["weight_names"] = names
        if config:
            file.attrs["model_config"] = json.dumps(config)


@pytest.fixture
def cells(drawn):
    """Random parameters of several cells of one shape."""
    shapes = {"kernel": (4, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}
    leaves = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return [drawn(leaves) for _ in range(4)]


def test_weights_alone_of_stacked_cells(cells, tmp_path, equal):
    path = tmp_path / "model.h5"
    names = [
        f"pair/{way}_rnn/gru_cell{end}" for way in ("backward", "forward") for end in ("", "_1")
    ]
    write_weights_of_keras_2(path, {"pair": dict(zip(names, cells, strict=True))})
    module, variables = convert.from_keras(path, return_sequences=True)
    assert isinstance(module, Bidirectional) and module.layer.return_sequences
    for way, half in (("forward", cells[2:]), ("backward", cells[:2])):
        stacked = variables["params"][f"{way}_layer"]["cell"]
        equal(stacked, {"cells_0": half[0], "cells_1": half[1]})
    # A frozen lower cell comes last; so would one that was made last.
    write_weights_of_keras_2(path, {"deep": dict(zip(["r/c_1", "r/c"], cells[:2], strict=True))})
    with pytest.raises(ValueError, match=r"order of the cells of 'deep' .*got \['c_1', 'c'\]"):
        convert.from_keras(path)


def test_weights_alone_of_two_directions_by_hand(cells, tmp_path, equal):
    names = ("forward_gru/gru_cell", "backward_gru/gru_cell")
    write_weights_of_keras_2(tmp_path / "w.h5", {"m": dict(zip(names, cells[:2], strict=True))})
    for name, params in zip(("forward_gru", "backward_gru"), cells[:2], strict=True):
        equal(convert.from_keras(tmp_path / "w.h5", name)[1]["params"], params)


@pytest.mark.parametrize("trains", [True, False])
def test_layers_that_were_renamed(trains, cells, tmp_path, equal):
    """Weights keep the names that layers had when they were built; Keras goes by their order."""

    def entry(name, **config):
        written = v1.GRU(4, reset_after=True).get_config() | {"name": name, **config}
        return {"class_name": "GRU", "config": written}

    order = ["b", "a"] if trains else ["d", "c"]
    inner = [entry(order[0], trainable=trains), entry(order[1])]
    model = {"class_name": "Sequential", "config": {"name": "in", "layers": inner}}
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [model]}}
    names = ("a/gru_cell", "b/gru_cell")
    path = tmp_path / "model.h5"
    write_weights_of_keras_2(path, {"in": dict(zip(names, cells[:2], strict=True))}, config)
    for name, params in zip(order, cells[:2] if trains else cells[1::-1], strict=True):
        equal(convert.from_keras(path, name)[1]["params"], params)


def test_names_that_are_not_different(cells, tmp_path, equal):
    """Keras wrote one layer over another: neither is there, and all others are."""
    path = tmp_path / "model.h5"
    gru = {"class_name": "GRU", "config": v1.GRU(4, reset_after=True).get_config()}
    layers = [{**gru, "config": gru["config"] | {"name": name}} for name in ("lost", "kept")]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    pools = {name: {f"{name}/gru_cell": cells[0]} for name in ("lost", "kept")}
    write_weights_of_keras_2(path, pools, config)
    with h5py.File(path, "r+") as file:
        attributes = file["model_weights/lost"].attrs
        attributes["weight_names"] = [*attributes["weight_names"]] * 2
    equal(convert.from_keras(path, "kept")[1]["params"], cells[0])
    with pytest.raises(ValueError, match="names .* must tell which are those of 'lost'"):
        convert.from_keras(path, "lost")
