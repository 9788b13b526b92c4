"""Models that PyTorch and Keras exported to ONNX, compared with what these libraries computed.

`tests/golden/make_onnx.py` made the files and the arrays.
"""

import pathlib

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from gruflax import convert
from gruflax.linen import GRU, Bidirectional, Stack


FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "onnx"
ARRAYS = np.load(FOLDER / "arrays.npz")

# Those whose inputs are [t, b, f].
TIME_MAJOR = ("torch_one", "torch_bidirectional", "dynamo_one", "dynamo_bidirectional")


def recorded(case):
    """The inputs of a case by name, and its outputs."""
    inputs = {
        name.rpartition("/")[2]: ARRAYS[name]
        for name in ARRAYS.files
        if name.startswith(f"{case}/inputs/")
    }
    return inputs, [ARRAYS[name] for name in ARRAYS.files if name.startswith(f"{case}/outputs/")]


def names_of(model):
    return [node.name for node in model.graph.node if node.op_type == "GRU"]


CASES = [path.stem for path in sorted(FOLDER.glob("*.onnx"))]


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith(("decoder", "loop"))])
def test_exports(case, close):
    inputs, wanted = recorded(case)
    path = FOLDER / f"{case}.onnx"
    time_major = case in TIME_MAJOR
    module, variables = convert.from_onnx(path, names_of(onnx.load(path)), time_major=time_major)
    options = {}
    if "h" in inputs:
        h = list(inputs["h"])
        options["initial_state"] = list(zip(h[::2], h[1::2], strict=True)) if h[1:] else h[0]
    if "lengths" in inputs:
        options["seq_lengths"] = inputs["lengths"]
    close(module.apply(variables, inputs["x"], **options), wanted[0])
    kinds = {"two_layers": Stack, "learned_both": Stack, "bidirectional": Bidirectional}
    kinds |= {"packed_2": Bidirectional, "both": Bidirectional}
    assert type(module) is kinds.get(case.partition("_")[2], GRU)
    learned = [path for path, _ in jax.tree.leaves_with_path(variables) if "initial" in str(path)]
    assert len(learned) == {"learned": 1, "learned_both": 4}.get(case.partition("_")[2], 0)


@pytest.mark.parametrize("case", ["torch_two_layers", "dynamo_learned_both", "torch_packed_2"])
def test_exports_of_exports(case, close):
    """What was read is written again."""
    inputs, wanted = recorded(case)
    path = FOLDER / f"{case}.onnx"
    module, variables = convert.from_onnx(path, names_of(onnx.load(path)), time_major=False)
    given = {"initial_state": "h" in inputs, "seq_lengths": "lengths" in inputs}
    model = convert.to_onnx(module, variables, **given)
    feeds = {"inputs": inputs["x"]}
    feeds |= {f"initial_state_{index}": state for index, state in enumerate(inputs.get("h", ()))}
    if "lengths" in inputs:
        feeds["seq_lengths"] = inputs["lengths"].astype(np.int32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    close(session.run(None, feeds)[0], wanted[0])


@pytest.mark.parametrize("exporter", ["torch", "dynamo"])
def test_a_decoder_begins_with_the_state_of_an_encoder(exporter, close):
    inputs, wanted = recorded(f"{exporter}_decoder")
    model = onnx.load(FOLDER / f"{exporter}_decoder.onnx")
    encoder, decoder = names_of(model)
    with pytest.raises(ValueError, match=r"initial_h .* computed from the values of \['x'\]"):
        convert.from_onnx(model, decoder)
    (node,) = (node for node in model.graph.node if node.name == decoder)
    graph = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    model = graph.extract_model([node.input[0], node.input[5]], [node.output[0]])
    first, first_variables = convert.from_onnx(
        FOLDER / f"{exporter}_decoder.onnx", encoder, return_sequences=False
    )
    second, variables = convert.from_onnx(model)
    state = first.apply(first_variables, inputs["x"])
    close(second.apply(variables, inputs["y"], initial_state=state), wanted[0])


def test_a_loop():
    with pytest.raises(ValueError, match="GRU node '/GRU' is inside the body of the Loop node '/L"):
        convert.from_onnx(FOLDER / "torch_loop.onnx")
