"""Exports GRUs of PyTorch and of Keras 2 to ONNX, and records what the libraries compute.

    python tests/golden/make_onnx.py torch    # PyTorch 2.13, onnx, onnxscript
    python tests/golden/make_onnx.py keras    # TensorFlow 2.15, tf2onnx

The models go to tests/golden/onnx/, one file each, and their inputs and outputs to arrays.npz
there, as `CASE/inputs/NAME` and `CASE/outputs/INDEX`.
"""

import pathlib
import sys

import numpy as np


FOLDER = pathlib.Path(__file__).parent / "onnx"
RANDOM = np.random.default_rng(0)


def torch_cases():
    """Yields `(case, module, inputs by name)`; "dynamo" in a case names the newer exporter."""
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    class Learned(nn.Module):
        """Begins with a parameter that is the same for the whole batch."""

        def __init__(self, layers=1, bidirectional=False):
            super().__init__()
            self.gru = nn.GRU(3, 4, layers, batch_first=True, bidirectional=bidirectional)
            directions = layers * (1 + bidirectional)
            self.start = nn.Parameter(torch.randn(directions, 1, 4))

        def forward(self, x):
            return self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())

    class Packed(nn.Module):
        def __init__(self, bidirectional):
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True, bidirectional=bidirectional)

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True)
            outputs, state = self.gru(packed)
            return pad_packed_sequence(outputs, batch_first=True)[0], state

    class Decoder(nn.Module):
        """Begins with the last state of another GRU."""

        def __init__(self):
            super().__init__()
            self.encoder = nn.GRU(3, 4)
            self.decoder = nn.GRU(3, 4)

        def forward(self, x, y):
            return self.decoder(y, self.encoder(x)[1])

    class Looped(nn.Module):
        """Runs a GRU as often as an input says."""

        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 3)

        def forward(self, x, count: int):
            for _ in range(count):
                x = self.gru(x)[0]
            return x

    torch.manual_seed(0)
    x = torch.from_numpy(RANDOM.normal(size=(3, 5, 3)).astype(np.float32))
    states = {
        count: torch.from_numpy(RANDOM.normal(size=(count, 3, 4)).astype(np.float32))
        for count in (1, 2, 4)
    }
    major = x.transpose(0, 1).contiguous()
    for kind in ("torch", "dynamo"):
        yield f"{kind}_one", nn.GRU(3, 4), {"x": major}
        yield f"{kind}_no_bias", nn.GRU(3, 4, bias=False, batch_first=True), {"x": x}
        yield f"{kind}_bidirectional", nn.GRU(3, 4, bidirectional=True), {"x": major}
        both = nn.GRU(3, 4, 2, batch_first=True, bidirectional=True)
        yield f"{kind}_two_layers", both, {"x": x, "h": states[4]}
        yield f"{kind}_state", nn.GRU(3, 4, batch_first=True), {"x": x, "h": states[1]}
        yield f"{kind}_learned", Learned(), {"x": x}
        yield f"{kind}_learned_both", Learned(2, True), {"x": x}
        yield f"{kind}_decoder", Decoder(), {"x": major, "y": major.flip(0)}
    lengths = torch.tensor([5, 4, 2])
    for both in (False, True):
        yield f"torch_packed_{2 if both else 1}", Packed(both), {"x": x, "lengths": lengths}
    looped = torch.jit.script(Looped())
    yield "torch_loop", looped, {"x": major, "count": 2}


def shrink(file):
    """Takes away what torch.export notes about every node, which is most of a small file."""
    import onnx

    model = onnx.load(file)
    for each in (model, model.graph, *model.graph.node, *model.graph.value_info):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    onnx.save(model, file)


def export_torch():
    import torch

    arrays = {}
    for case, module, inputs in torch_cases():
        module.eval()
        batch = 0 if getattr(module, "batch_first", not case.endswith(("one", "decoder"))) else 1
        dynamo = case.startswith("dynamo")
        axes = {}
        for name in inputs:
            if name == "h":
                axes[name] = {1: "batch"}
            elif name in ("x", "y"):
                axes[name] = {batch: "batch"}
                if not dynamo:
                    # torch.export takes the number of steps for a constant.
                    axes[name][1 - batch] = "time" if name == "x" else "steps"
        if dynamo:
            shapes = {
                name: {axis: torch.export.Dim.DYNAMIC for axis in each}
                for name, each in axes.items()
            }
            if isinstance(module, torch.nn.GRU):
                names = {"x": "input", "h": "hx"}
                shapes = {names[name]: each for name, each in shapes.items()}
            options = {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
        else:
            options = {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
        file = FOLDER / f"{case}.onnx"
        names = list(inputs)
        torch.onnx.export(
            module, tuple(inputs.values()), file, input_names=names, external_data=False, **options
        )
        shrink(file)
        with torch.no_grad():
            outputs = module(*inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        arrays |= {f"{case}/inputs/{name}": np.asarray(value) for name, value in inputs.items()}
        arrays |= {f"{case}/outputs/{i}": each.numpy() for i, each in enumerate(outputs)}
    return arrays


def export_keras():
    import tensorflow as tf
    import tf2onnx

    x = RANDOM.normal(size=(3, 5, 3)).astype(np.float32)
    layers = tf.keras.layers
    arrays = {}
    for case, layer in (
        ("keras_gru", layers.GRU(4, return_sequences=True, bias_initializer="uniform")),
        ("keras_both", layers.Bidirectional(layers.GRU(4, return_sequences=True))),
    ):
        model = tf.keras.Sequential([tf.keras.Input((None, 3)), layer])
        signature = [tf.TensorSpec((None, None, 3), tf.float32, name="x")]
        tf2onnx.convert.from_keras(
            model, signature, opset=15, output_path=str(FOLDER / f"{case}.onnx")
        )
        arrays |= {f"{case}/inputs/x": x, f"{case}/outputs/0": model(x).numpy()}
    return arrays


if __name__ == "__main__":
    file = FOLDER / "arrays.npz"
    arrays = dict(np.load(file)) if file.exists() else {}
    arrays |= {"torch": export_torch, "keras": export_keras}[sys.argv[1]]()
    np.savez_compressed(file, **dict(sorted(arrays.items())))
