"""The GRUs of libraries with an engine of their own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD, Case
from gruflax.bench.machine import thread_count
from gruflax.bench.peers.loops import gruflax_params
from gruflax.bench.peers.peer import OTHER, Peer, Program


def make_torch(case: Case, mode: str) -> Program:
    """Makes `torch.nn.GRU`, on packed sequences where there is a mask.

    Raises:
        RuntimeError: a GPU is wanted and torch has none.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if case.device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"torch has no {case.device}")
    torch.set_num_threads(thread_count())
    device = "cuda" if case.device == "gpu" else "cpu"
    dtype = getattr(torch, case.dtype)
    torch.manual_seed(0)
    gru = torch.nn.GRU(case.features, case.units, batch_first=True, device=device, dtype=dtype)
    inputs: Any = torch.from_numpy(case.inputs()).to(device, dtype)
    lengths = case.lengths()
    if lengths is not None:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            inputs, torch.from_numpy(lengths).long(), batch_first=True, enforce_sorted=False
        )

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.inference_mode():
            outputs = gru(inputs)[0]
        wait()
        return outputs if lengths is None else outputs.data

    def value_and_grad() -> Any:
        gru.zero_grad(set_to_none=True)
        outputs = gru(inputs)[0]
        # A packed sequence holds the valid steps only.
        valid = outputs if lengths is None else outputs.data
        loss = valid.float().square().mean() if dtype.itemsize < 4 else valid.square().mean()
        loss.backward()
        wait()
        return loss.detach(), [parameter.grad for parameter in gru.parameters()]

    return Program(value_and_grad if mode == VALUE_AND_GRAD else forward)


def onnx_model(params: Mapping[str, Any], time: int, batch: int) -> bytes:
    """Writes a GRU as an ONNX model from `x` [b, t, f] to `y` [b, t, u].

    ONNX has gruflax' order of the gates and its sense of the update gate.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u].
        time: steps a sequence.
        batch: number of sequences.

    Returns:
        The serialised model.
    """
    from onnx import TensorProto, helper, numpy_helper

    kernel, recurrent, bias = (
        np.asarray(params[name], np.float32) for name in ("kernel", "recurrent_kernel", "bias")
    )
    features, units = kernel.shape[0], recurrent.shape[0]
    weights = {"W": kernel.T[None], "R": recurrent.T[None], "B": bias.reshape(1, -1)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU", ["steps", *weights], ["states"], hidden_size=units, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["states", "directions"], ["outputs"]),
        helper.make_node("Transpose", ["outputs"], ["y"], perm=[1, 0, 2]),
    ]
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in (weights | {"directions": np.array([1])}).items()
    ]
    ends = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, time, size])
        for name, size in (("x", features), ("y", units))
    )
    graph = helper.make_graph(nodes, "gru", *([end] for end in ends), initializer=constants)
    # Old enough for every onnxruntime of the last years.
    versions = {"opset_imports": [helper.make_opsetid("", 14)], "ir_version": 8}
    return helper.make_model(graph, **versions).SerializeToString()


def make_onnxruntime(case: Case, mode: str) -> Program:
    """Makes an onnxruntime session with gruflax' parameters; inputs and outputs stay bound.

    Raises:
        RuntimeError: a GPU is wanted and onnxruntime has none.
    """
    import onnxruntime

    device = "cuda" if case.device == "gpu" else "cpu"
    provider = f"{device.upper()}ExecutionProvider"
    if case.device == "tpu" or provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"onnxruntime has no {case.device}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Its threads spin while it runs, as they should, but not into the next contestant's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        onnx_model(gruflax_params(case), case.time, case.batch), options, providers=[provider]
    )
    outputs = np.zeros((case.batch, case.time, case.units), np.float32)
    x, y = (
        onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        for array in (case.inputs(), outputs)
    )
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return y

    return Program(run)


OTHER_PEERS = (
    Peer(
        "torch",
        OTHER,
        make_torch,
        ("torch",),
        "torch",
        mask_note="packs masked sequences, which skips the padded steps",
    ),
    Peer(
        "onnxruntime",
        OTHER,
        make_onnxruntime,
        ("onnx", "onnxruntime"),
        "onnx onnxruntime",
        modes=(FORWARD,),
        masks=False,
        dtypes=("float32",),
    ),
)
