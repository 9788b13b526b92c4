"""The part of cuDNN 9 that a GRU needs, called through `ctypes`.

Source: the header `cudnn_adv.h` and the documentation of cuDNN 9.
"""

import ctypes
import functools
import importlib.util
import pathlib
import threading
from collections.abc import Sequence
from typing import NamedTuple

from gruflax.functional.loops.cudnn.problem import Problem, Sizes
from gruflax.functional.params import GATES


SONAME = "libcudnn.so.9"

_GRU, _LINEAR_INPUT, _UNIDIRECTIONAL, _DOUBLE_BIAS = 3, 0, 0, 2
_INFERENCE, _TRAINING = 0, 1
_UNPACKED, _PACKED, _ADD_GRADIENTS = 0, 1, 0
_PADDED_IO = {_UNPACKED: 1, _PACKED: 0}
_MATH = {"default": 0, "tensor_op": 1, "fma": 3}
_ALGORITHMS = ("standard", "persist_static", "persist_dynamic", "persist_static_small_h")
_FLOAT = 0
_DATA_TYPES = {"float32": _FLOAT, "float64": 1, "float16": 2, "bfloat16": 9}


class CudnnError(RuntimeError):
    """A call of cuDNN that failed."""


class _Handle(NamedTuple):
    """cuDNN's state for one stream of one device, and a lock to be held in calls with it."""

    pointer: ctypes.c_void_p
    lock: threading.Lock


class Cudnn:
    """cuDNN's GRU. Arrays on the GPU are given by their addresses, as integers."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library
        self._handles: dict[int, _Handle] = {}
        self._making = threading.Lock()
        library.cudnnGetErrorString.restype = ctypes.c_char_p
        library.cudnnGetVersion.restype = ctypes.c_size_t
        self.sizes = functools.cache(self._sizes)
        self._descriptors = functools.cache(self._describe)

    @property
    def version(self) -> int:
        """Returns cuDNN's version as a number, for example 90100 for 9.1.0."""
        return self._library.cudnnGetVersion()

    def forward(
        self,
        stream: int,
        problem: Problem,
        lengths: int,
        x: int,
        state: int,
        weights: int,
        states: int,
        workspace: int,
        reserve: int,
    ) -> None:
        """Queues a forward pass on a stream."""
        sizes, made, handle = self._prepared(problem, stream)
        mode = _TRAINING if problem.training else _INFERENCE
        sequences = made.x, _address(x), made.states, _address(states)
        states_and_cells = made.state, _address(state), *[None] * 4
        spaces = (
            *_space(sizes.weights, weights),
            *_space(sizes.workspace, workspace),
            *_space(sizes.reserve, reserve),
        )
        arguments = mode, _address(lengths), *sequences, *states_and_cells, *spaces
        with handle.lock:
            self._call("cudnnRNNForward", handle.pointer, made.gru, *arguments)

    def backward(
        self,
        stream: int,
        problem: Problem,
        lengths: int,
        x: int,
        state: int,
        weights: int,
        states: int,
        dstates: int,
        dx: int,
        dstate: int,
        dweights: int,
        workspace: int,
        reserve: int,
    ) -> None:
        """Queues a backward pass on a stream."""
        sizes, made, handle = self._prepared(problem, stream)
        spaces = *_space(sizes.workspace, workspace), *_space(sizes.reserve, reserve)
        before = made.state, _address(state)
        of_data = (
            *(_address(lengths), made.states, _address(states), _address(dstates)),
            *(made.x, _address(dx), *before, None, _address(dstate), *[None] * 4),
            *(*_space(sizes.weights, weights), *spaces),
        )
        of_weights = (
            *(_ADD_GRADIENTS, _address(lengths), made.x, _address(x)),
            *(*before, made.states, _address(states)),
            *(*_space(sizes.weights, dweights), *spaces),
        )
        with handle.lock:
            self._call("cudnnRNNBackwardData_v8", handle.pointer, made.gru, *of_data)
            self._call("cudnnRNNBackwardWeights_v8", handle.pointer, made.gru, *of_weights)

    def _prepared(self, problem: Problem, stream: int):
        return self.sizes(problem), self._descriptors(problem), self._handle(stream)

    def _sizes(self, problem: Problem) -> Sizes:
        handle, made = self._handle(0), self._descriptors(problem)
        weights, workspace, reserve = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
        with handle.lock:
            self._call(
                "cudnnGetRNNWeightSpaceSize", handle.pointer, made.gru, ctypes.byref(weights)
            )
            self._call(
                "cudnnGetRNNTempSpaceSizes",
                handle.pointer,
                made.gru,
                _TRAINING if problem.training else _INFERENCE,
                made.x,
                ctypes.byref(workspace),
                ctypes.byref(reserve),
            )
            places = [
                self._place(handle.pointer, made, weights, layer) for layer in range(2 * GATES)
            ]
        matrices, biases = zip(*places, strict=True)
        return Sizes(weights.value, (*matrices, *biases), workspace.value, reserve.value)

    def _place(self, handle, made: "_Descriptors", size, layer: int) -> tuple[int, int]:
        """Returns where a linear layer's matrix and bias begin in the weight space."""
        # cuDNN only computes addresses here and reads nothing, so any base but null will do.
        base = 1 << 20
        matrix, bias = ctypes.c_void_p(), ctypes.c_void_p()
        self._call(
            "cudnnGetRNNWeightParams",
            handle,
            made.gru,
            0,
            size,
            ctypes.c_void_p(base),
            layer,
            made.matrix,
            ctypes.byref(matrix),
            made.bias,
            ctypes.byref(bias),
        )
        if matrix.value is None or bias.value is None:
            raise CudnnError(f"cuDNN has no matrix or bias {layer} for a GRU.")
        return matrix.value - base, bias.value - base

    def _describe(self, problem: Problem) -> "_Descriptors":
        """Makes the descriptors of a problem, which are kept and never changed."""
        made = _Descriptors(
            gru=self._create("cudnnCreateRNNDescriptor"),
            x=self._create("cudnnCreateRNNDataDescriptor"),
            states=self._create("cudnnCreateRNNDataDescriptor"),
            state=self._create("cudnnCreateTensorDescriptor"),
            matrix=self._create("cudnnCreateTensorDescriptor"),
            bias=self._create("cudnnCreateTensorDescriptor"),
            dropout=self._no_dropout(),
        )
        kind, settings = _DATA_TYPES[problem.dtype], problem.settings
        layout = _PACKED if settings.packed else _UNPACKED
        self._call(
            "cudnnSetRNNDescriptor_v8",
            made.gru,
            _ALGORITHMS.index(settings.algorithm),
            _GRU,
            _DOUBLE_BIAS,
            _UNIDIRECTIONAL,
            _LINEAR_INPUT,
            kind,
            kind if problem.dtype == "float64" else _FLOAT,
            _MATH[settings.math or _usual_math(problem)],
            problem.features,
            problem.units,
            problem.units,
            1,
            made.dropout,
            _PADDED_IO[layout],
        )
        if settings.algorithm == "persist_dynamic":
            # The kernels of this algorithm are compiled for one batch size.
            handle = self._handle(0)
            with handle.lock:
                self._call("cudnnBuildRNNDynamic", handle.pointer, made.gru, problem.batch)
        lengths = (ctypes.c_int * problem.batch)(*[problem.time] * problem.batch)
        filling = ctypes.c_double(0.0)
        for descriptor, size in ((made.x, problem.features), (made.states, problem.units)):
            self._call(
                "cudnnSetRNNDataDescriptor",
                descriptor,
                kind,
                layout,
                problem.time,
                problem.batch,
                size,
                lengths,
                ctypes.byref(filling),
            )
        shape = (1, problem.batch, problem.units)
        strides = (problem.batch * problem.units, problem.units, 1)
        sizes = ((ctypes.c_int * 3)(*numbers) for numbers in (shape, strides))
        self._call("cudnnSetTensorNdDescriptor", made.state, kind, 3, *sizes)
        return made

    def _no_dropout(self) -> ctypes.c_void_p:
        """Returns a dropout descriptor that drops nothing and so needs no random states."""
        made = self._create("cudnnCreateDropoutDescriptor")
        rate, states, size, seed = ctypes.c_float(0), None, ctypes.c_size_t(0), ctypes.c_uint64(0)
        handle, name = self._handle(0), "cudnnSetDropoutDescriptor"
        with handle.lock:
            self._call(name, made, handle.pointer, rate, states, size, seed)
        return made

    def _create(self, name: str) -> ctypes.c_void_p:
        result = ctypes.c_void_p()
        self._call(name, ctypes.byref(result))
        return result

    def _handle(self, stream: int) -> _Handle:
        """Returns the handle of a stream. The first call makes it for the current device."""
        with self._making:
            if stream not in self._handles:
                pointer = self._create("cudnnCreate")
                self._call("cudnnSetStream", pointer, _address(stream))
                self._handles[stream] = _Handle(pointer, threading.Lock())
            return self._handles[stream]

    def _call(self, name: str, *arguments) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = self._library.cudnnGetErrorString(status).decode()
            reason = ctypes.create_string_buffer(1024)
            self._library.cudnnGetLastErrorString(reason, ctypes.c_size_t(len(reason)))
            raise CudnnError(
                f"{name} failed: {text} ({status}); cuDNN {self.version}. {reason.value.decode()}"
            )


class _Descriptors(NamedTuple):
    gru: ctypes.c_void_p
    x: ctypes.c_void_p
    states: ctypes.c_void_p
    state: ctypes.c_void_p
    matrix: ctypes.c_void_p
    bias: ctypes.c_void_p
    dropout: ctypes.c_void_p


def _usual_math(problem: Problem) -> str:
    """Chooses the kind of arithmetic units, as PyTorch does."""
    if problem.dtype in ("float16", "bfloat16"):
        return "tensor_op"
    return "fma" if problem.dtype == "float32" and not problem.tensor_cores else "default"


def _address(value: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


def _space(size: int, address: int) -> tuple[ctypes.c_size_t, ctypes.c_void_p]:
    """Returns a memory space as cuDNN takes it: its size and its address."""
    return ctypes.c_size_t(size), ctypes.c_void_p(address if size else None)


@functools.cache
def load_cudnn() -> Cudnn:
    """Loads cuDNN: the copy that JAX's CUDA plugin has loaded, or one in a Python package."""
    for place in (SONAME, *_packaged()):
        try:
            cudnn = Cudnn(ctypes.CDLL(place))
        except (OSError, AttributeError):
            continue
        if cudnn.version >= 90000:
            return cudnn
    raise CudnnError(f"{SONAME} (cuDNN 9) cannot be loaded.")


def has_cudnn() -> bool:
    """Returns whether cuDNN 9 can be loaded."""
    try:
        load_cudnn()
    except CudnnError:
        return False
    return True


def _packaged() -> Sequence[str]:
    """Returns where NVIDIA's Python package of cuDNN keeps the library, if it is installed."""
    if importlib.util.find_spec("nvidia") is None:
        return []
    package = importlib.util.find_spec("nvidia.cudnn")
    folders = (package and package.submodule_search_locations) or []
    return [str(pathlib.Path(folder) / "lib" / SONAME) for folder in folders]
