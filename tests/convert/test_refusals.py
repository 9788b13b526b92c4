"""Every sentence by which a converter refuses what it is given: a table."""

import json
import types
import zipfile

import h5py
import keras
import numpy as np
import pytest
from flax import linen as nn
from onnx import helper
from refused import draw, in_a_body, onnx_model, two_in_a_model, variables_of

from gruflax import GRU, RNN, GRUCell, convert
from gruflax.keras_names.activations import ReLU
from gruflax.linen import Bidirectional, Stack


GATES = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}


def to(library, module, **options):
    """A call of a converter to a library."""
    return lambda: getattr(convert, f"to_{library}")(module, variables_of(module), **options)


# Keras.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with files, from which the calls of the table run."""
    monkeypatch.chdir(tmp_path)
    gru = {"class_name": "GRU", "config": {"name": "gru", "units": 4}}
    other = {"class_name": "GRU", "config": {"name": "other", "units": 4}}
    for name, layers in (
        ("two", [gru, other]),
        ("units", [gru | {"config": {"name": "gru", "units": 5}}]),
        ("no_units", [gru | {"config": {"name": "gru"}}]),
        ("no_weights", [{**gru, "class_name": "OwnGRU", "config": {"reset_after": 1}}] * 3),
        ("prelu", [with_activation("PReLU")]),
        ("batch", [with_activation("Softmax", axis=0)]),
        ("own", [gru | {"config": {"name": "gru", "units": 4, "activation": "own"}}]),
    ):
        config = {"class_name": "Sequential", "config": {"layers": layers}}
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            for group in ("gru", "gru_1"):
                for index, shape in enumerate(GATES.values()):
                    file[f"layers/{group}/cell/vars/{index}"] = draw(*shape)
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.write(tmp_path / "weights.h5", "model.weights.h5")
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "damaged.keras").write_text("no file of Keras")
    (tmp_path / "damaged.onnx").write_text("no file of ONNX")
    (tmp_path / "damaged.safetensors").write_text("no file of weights")
    return tmp_path


def with_activation(class_name, **config):
    activation = {"class_name": class_name, "config": config}
    return {"class_name": "GRU", "config": {"name": "gru", "units": 4, "activation": activation}}


def from_keras(*arguments, **fields):
    return lambda: convert.from_keras(*arguments, **fields)


KERAS = [
    (from_keras(3), TypeError, "source must be a Keras layer or model, a weight list or a path"),
    (from_keras([draw(3, 12)]), ValueError, "weights must be .kernel, .* got 1 arrays"),
    (from_keras([draw(3, 12)] * 2, "gru"), ValueError, "name chooses in a model .* is a list"),
    (from_keras(keras.layers.GRU(4)), ValueError, "the layer must have weights: build it first"),
    (from_keras(keras.layers.GRU(4), "gru"), ValueError, "name chooses .* source is one layer"),
    (from_keras(keras.layers.LSTM(4)), ValueError, "must be one of .*GRU.*, got LSTM: not a GRU"),
    (from_keras(keras.layers.Dense(4)), ValueError, "must be one of .*GRU.*, got Dense"),
    (from_keras("two.keras"), ValueError, r"the file's GRU layers: \['gru', 'other'\], got None"),
    (from_keras("two.keras", "lstm"), ValueError, "the file's GRU layers: .*, got 'lstm'"),
    (from_keras("weights.h5", "x"), ValueError, r"\['layers/gru', 'layers/gru_1'\], got 'x'"),
    (from_keras("units.keras"), ValueError, "params must be of units=5, got those of 4 units"),
    (from_keras("no_units.keras"), ValueError, r"config of GRU must have \['units'\]"),
    (from_keras("no_weights.keras", "x"), ValueError, "name must be one of"),
    (from_keras("prelu.keras"), ValueError, "must have no weights of its own, got the layer PReLU"),
    (from_keras("batch.keras"), ValueError, "Softmax must be that of the units, got 0"),
    (from_keras("own.keras"), ValueError, "activation must be one of .*, got 'own'"),
    (from_keras("saved_model"), ValueError, "must hold config.json .* convert its layer"),
    (from_keras("damaged.keras"), ValueError, "damaged.keras must be a whole .keras, .weights.h5"),
    (from_keras("missing.keras"), FileNotFoundError, "missing.keras"),
    (
        lambda: convert.to_keras(nn.Dense(3), {"params": {}}),
        TypeError,
        "module must be .*got Dense",
    ),
    (lambda: convert.to_keras(GRU(4)), TypeError, "variables must be a dict of arrays, got .*GRU"),
    (
        lambda: convert.to_keras(GRU(5), variables_of(GRU(4))),
        ValueError,
        "params must be of units=5, got those of 4 units",
    ),
    (to("keras", GRU(4, zoneout=0.1)), ValueError, "zoneout=0 and .* can be converted"),
]


# torch.


def from_torch(*arguments, **fields):
    return lambda: convert.from_torch(*arguments, **fields)


TORCH_GRU = {
    "weight_ih_l0": draw(15, 4),
    "weight_hh_l0": draw(15, 5),
    "bias_ih_l0": draw(15),
    "bias_hh_l0": draw(15),
}
TWO = {f"{prefix}.{name}": array for prefix in "ab" for name, array in TORCH_GRU.items()}


def renamed(old, new):
    return {name.replace(old, new): array for name, array in TORCH_GRU.items()}


def without(name):
    return {key: array for key, array in TORCH_GRU.items() if key != name}


NORMED = without("weight_hh_l0") | {"weight_hh_l0_g": draw(15, 1), "weight_hh_l0_v": draw(1, 5)}
SPECTRAL = without("weight_ih_l0") | {
    f"weight_ih_l0_{name}": draw(*shape) for name, shape in (("orig", (15, 15)), ("u", (15,)))
}
SPECTRAL["weight_ih_l0_v"] = draw(15)

TORCH = [
    (from_torch(3), TypeError, "source must be a torch module or its state_dict, got int"),
    (
        from_torch({"gru.weight": draw(3)}),
        ValueError,
        "must hold weight_ih_l0 .* See prefix",
    ),
    (from_torch(TWO), ValueError, r"prefix must name one GRU of source, of \['a.', 'b.'\], got ''"),
    (from_torch(TORCH_GRU, prefix="gru"), ValueError, "prefix must name one GRU .* got 'gru'"),
    (
        from_torch({"e.weight_ih_l0": draw(20, 4), "e.weight_hh_l0": draw(20, 5)}),
        ValueError,
        "must hold a torch.nn.GRU or GRUCell, got what looks like LSTM 'e.'",
    ),
    (
        from_torch({"weight_ih": draw(5, 4), "weight_hh": draw(5, 5)}),
        ValueError,
        "got what looks like RNN ''",
    ),
    (
        from_torch({"0._all_weight_values.0.param": None}),
        ValueError,
        "got packed ones of a quantized model: hand in the model",
    ),
    (
        from_torch(types.SimpleNamespace(state_dict=TORCH_GRU)),
        ValueError,
        "does not tell its batch_first and dropout: give",
    ),
    (
        from_torch(renamed("weight_hh_l0", "parametrizations.weight_hh_l0.original")),
        ValueError,
        "source computes weight_hh_l0 from .* hand in the live module",
    ),
    (from_torch(NORMED), ValueError, "source must hold a weight_hh_l0 that can be read"),
    (from_torch(SPECTRAL), ValueError, "square weight does not tell its dim"),
    (
        from_torch(TORCH_GRU | {"bias_hh_l0": np.ones(15, int)}),
        ValueError,
        r"bias_hh_l0 .*: got tensors of \['int64'\], not floats",
    ),
    (from_torch(without("bias_hh_l0")), ValueError, "the state_dict must hold .*bias_hh_l0"),
    (
        from_torch(TORCH_GRU | renamed("l0", "l2")),
        ValueError,
        "the state_dict must hold .*weight_ih_l1",
    ),
    (
        from_torch(TORCH_GRU | {"bias_hh_l0": draw(5)}),
        ValueError,
        "the state_dict must have the shapes of a GRU",
    ),
    (
        from_torch(renamed("_l0", ""), activation="relu"),
        TypeError,
        r"params of a cell have no fields, got \['activation'\]",
    ),
    (
        lambda: convert.from_torch_state(GRU(5), draw(2, 3, 5)),
        ValueError,
        r"state must be \[1, b, 5\] or \[1, 5\], as torch's",
    ),
    (
        lambda: convert.to_torch_state(GRU(5), draw(1, 3, 5)),
        ValueError,
        r"state must hold 1 states \[b, 5\] or \[5\], one for each",
    ),
    (
        lambda: convert.from_torch_state(nn.Dense(3), draw(1, 2, 5)),
        TypeError,
        "module must be a gruflax.GRU, .*got Dense",
    ),
    (to("torch", GRU(4, reset_after=False)), ValueError, "torch has no GRU with reset_after=False"),
    (to("torch", GRU(4, activation="relu")), ValueError, "torch has no GRU with activation='relu'"),
    (
        to("torch", GRU(4, recurrent_activation="hard_sigmoid")),
        ValueError,
        "torch has no GRU with recurrent_activation='hard_sigmoid'",
    ),
    (to("torch", GRU(4, go_backwards=True)), ValueError, "torch has no GRU that goes backwards"),
    (to("torch", Bidirectional(GRU(4), "sum")), ValueError, "merge_mode='sum', only 'concat'"),
    (
        to("torch", Stack([GRU(4, return_sequences=True), GRU(3)])),
        ValueError,
        "torch has one number of units",
    ),
    (
        to("torch", RNN(GRUCell(4, learn_initial_state=True))),
        ValueError,
        "learn_initial_state=False can be converted",
    ),
]


# ONNX.


def from_onnx(*arguments, name=None, given=None, **options):
    model = arguments[0] if arguments else onnx_model(**options)
    return lambda: convert.from_onnx(model, name, inputs=given)


IN_BODY = in_a_body()
BETWEEN = two_in_a_model()
EYE = np.eye(4, dtype=np.float32)[None]
TANH = helper.make_node("Tanh", ["h"], ["H"])
STATE = {"h": [1, "batch", 4]}

ONNX = [
    (from_onnx(3), TypeError, "source must be an onnx.ModelProto or a path, got 3"),
    (from_onnx("damaged.onnx"), ValueError, "damaged.onnx must be a whole ONNX file"),
    (from_onnx("missing.onnx"), FileNotFoundError, "missing.onnx"),
    (from_onnx(clip=3.0), ValueError, "clip of the GRU node must be absent, got 3.0"),
    (from_onnx(other=3.0), ValueError, r"no attributes but .*, got \['other'\]"),
    (from_onnx(direction="sideways"), ValueError, "direction must be one of .*'sideways'"),
    (from_onnx(direction="bidirectional"), ValueError, "W, R and B must have 2 directions"),
    (from_onnx(hidden_size=7), ValueError, "hidden_size must be that of R, 4, got 7"),
    (from_onnx(activations=["Tanh", "Sinh"]), ValueError, r"activations must be of .*\['Sinh'\]"),
    (from_onnx(activations=["Tanh"]), ValueError, "activations must be 2 names"),
    (from_onnx(constants={"H": EYE}), ValueError, "initial_h .* 'H' differs from row to row"),
    (
        from_onnx(constants={"H": draw(1, 2, 5)}),
        ValueError,
        "initial_h .* 'H' has no rows of the shape",
    ),
    (
        from_onnx(nodes=[TANH], inputs=STATE),
        ValueError,
        r"initial_h .* computed from the values of \['h'\].*extract_model",
    ),
    (
        from_onnx(constants={"L": np.ones(2, np.int32)}),
        ValueError,
        "sequence_lens of the GRU node must come from outside, .* constant",
    ),
    (
        from_onnx(constants={"W": None}, inputs={"W": [1, 12, 3]}),
        ValueError,
        r"W of the GRU node must be a constant .*\['W'\], which only inputs=",
    ),
    (
        from_onnx(given={"v": draw(1)}),
        ValueError,
        r"inputs must be values of the graph's inputs by name, of \['X'\], got \['v'\]",
    ),
    (
        from_onnx(IN_BODY, name="gru"),
        ValueError,
        "GRU node 'gru' is inside the body of the If node 'choice'",
    ),
    (from_onnx(BETWEEN), ValueError, "name must be one of the model's GRU nodes: .*got None"),
    (
        from_onnx(BETWEEN, name=["gru", "above"]),
        ValueError,
        "'above' must take the outputs of 'gru'.* changed in between",
    ),
    (to("onnx", GRU(4), opset=13), ValueError, "opset must be an integer from 14 on, got 13"),
    (to("onnx", GRU(4, stateful=True)), ValueError, "ONNX has no stateful GRU"),
    (to("onnx", GRU(4, activation="gelu")), ValueError, "one that ONNX has, .*got 'gelu'"),
    (to("onnx", GRU(4, activation=ReLU(2.0))), ValueError, "one that ONNX has, .*got ReLU"),
    (to("onnx", GRU(4, param_dtype="bfloat16")), ValueError, "got bfloat16: that needs opset 22"),
    (
        to("onnx", Stack([GRU(4, dtype="float16", return_sequences=True), GRU(3)])),
        ValueError,
        "dtype must be the same in all layers and directions",
    ),
    (
        to("onnx", Bidirectional(GRU(4), "sum", GRU(4, reset_after=False, go_backwards=True))),
        ValueError,
        "both directions must have the same",
    ),
    (
        to("onnx", Bidirectional(GRU(4, go_backwards=True), "sum", GRU(4))),
        ValueError,
        "the forward layer of a Bidirectional must not go backwards",
    ),
    (
        to("onnx", GRU(4, return_sequences=True), seq_lengths=True),
        ValueError,
        "zero_output_for_mask must be equal to return_sequences",
    ),
    (
        to(
            "onnx",
            Stack([GRU(4, return_sequences=True, go_backwards=True), GRU(4)]),
            seq_lengths=True,
        ),
        ValueError,
        "seq_lengths must be False where a layer but the last has go_backwards",
    ),
    (
        to("onnx", Bidirectional(RNN([GRUCell(4), GRUCell(3)]))),
        TypeError,
        "a Bidirectional of a GRU or of an RNN of one GRUCell",
    ),
    (
        to("onnx", RNN(nn.GRUCell(4))),
        TypeError,
        "module must be a gruflax.GRU, an RNN of GRUCells, .*got RNN",
    ),
]


# Libraries whose GRU is a cell, and checkpoints.

BEFORE, RELU = GRU(4, reset_after=False), GRU(4, activation="relu")

OTHERS = [
    (lambda: convert.from_flax_linen({"ir": 3}), ValueError, "params must be params of a flax"),
    (lambda: convert.from_flax_nnx(3), ValueError, "cell must be a flax.nnx.GRUCell"),
    (lambda: convert.from_equinox(3), ValueError, "cell must be an equinox.nn.GRUCell"),
    (
        lambda: convert.from_haiku({"w_i": 3}),
        ValueError,
        "name must be one of the haiku.GRU modules",
    ),
    (to("flax_linen", BEFORE), ValueError, "flax.linen has no GRU with reset_after=False"),
    (to("flax_linen", RELU), ValueError, "flax.linen has no GRU with activation='relu'"),
    (to("flax_nnx", GRU(4)), ValueError, "flax.nnx.GRUCell has no recurrent bias"),
    (to("equinox", BEFORE), ValueError, "equinox has no GRU with reset_after=False"),
    (to("haiku", GRU(4)), ValueError, "haiku has no GRU with reset_after=True"),
    (
        lambda: convert.load_safetensors("damaged.safetensors"),
        ValueError,
        "damaged.safetensors must be a whole safetensors file",
    ),
    (lambda: convert.load_safetensors("missing.safetensors"), FileNotFoundError, "missing"),
    (
        lambda: convert.save_safetensors("file.safetensors", {"a.b": draw(1)}),
        ValueError,
        "names in variables must be without dots",
    ),
    (
        lambda: convert.save_safetensors("file.safetensors", {"a": "text"}),
        TypeError,
        "a must be an array of numbers",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), KERAS + TORCH + ONNX + OTHERS)
def test_refusals(call, error, sentence, folder):
    with pytest.raises(error, match=sentence) as raised:
        call()
    # A sentence, and not what a library happened to say.
    assert type(raised.value) is error
    assert len(str(raised.value)) < 1200
