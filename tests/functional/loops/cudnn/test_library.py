"""cuDNN's functions get what its header says; no GPU is needed for that."""

import ctypes
import itertools
import threading

import pytest

from gruflax.functional.loops.cudnn import library
from gruflax.functional.loops.cudnn.library import Cudnn, CudnnError, has_cudnn, load_cudnn
from gruflax.functional.loops.cudnn.problem import Problem, Settings


PROBLEM = Problem(5, 3, 4, 6, "bfloat16", tensor_cores=False, training=True)

# The parameters of `cudnn_adv.h`, in its order and by its names.
HEADER = {
    "cudnnRNNForward": "handle rnnDesc fwdMode devSeqLengths xDesc x yDesc y hDesc hx hy cDesc cx "
    "cy weightSpaceSize weightSpace workSpaceSize workSpace reserveSpaceSize reserveSpace",
    "cudnnRNNBackwardData_v8": "handle rnnDesc devSeqLengths yDesc y dy xDesc dx hDesc hx dhy dhx "
    "cDesc cx dcy dcx weightSpaceSize weightSpace workSpaceSize workSpace reserveSpaceSize "
    "reserveSpace",
    "cudnnRNNBackwardWeights_v8": "handle rnnDesc addGrad devSeqLengths xDesc x hDesc hx yDesc y "
    "weightSpaceSize dweightSpace workSpaceSize workSpace reserveSpaceSize reserveSpace",
    "cudnnSetRNNDescriptor_v8": "rnnDesc algo cellMode biasMode dirMode inputMode dataType "
    "mathPrec mathType inputSize hiddenSize projSize numLayers dropoutDesc auxFlags",
    "cudnnSetRNNDataDescriptor": "rnnDataDesc dataType layout maxSeqLength batchSize vectorSize "
    "seqLengthArray paddingFill",
    "cudnnGetRNNWeightParams": "handle rnnDesc pseudoLayer weightSpaceSize weightSpace linLayerID "
    "mDesc mAddr bDesc bAddr",
    "cudnnBuildRNNDynamic": "handle rnnDesc miniBatch",
    "cudnnSetDropoutDescriptor": "dropoutDesc handle dropout states stateSizeInBytes seed",
    "cudnnGetRNNTempSpaceSizes": "handle rnnDesc fwdMode xDesc workSpaceSize reserveSpaceSize",
}


class Recorder:
    """Stands for the loaded library: keeps every call by the header's names."""

    def __init__(self, version=90100, failing=()):
        self.calls, self.made, self.failing = [], 0, failing
        self.cudnnGetErrorString = lambda status: b"CUDNN_STATUS_NOT_SUPPORTED"
        self.cudnnGetLastErrorString = self.explain
        self.cudnnGetVersion = lambda: version

    def __getattr__(self, name):
        def function(*arguments):
            if name in self.failing:
                return 3000
            if name.startswith("cudnnCreate"):
                self.made += 1
                arguments[0]._obj.value = self.made
            if name == "cudnnGetRNNWeightSpaceSize":
                arguments[-1]._obj.value = 4096
            if name in HEADER:
                names = HEADER[name].split()
                assert len(names) == len(arguments)
                self.calls.append((name, dict(zip(names, map(plain, arguments), strict=True))))
            if name == "cudnnGetRNNTempSpaceSizes":
                arguments[-2]._obj.value, arguments[-1]._obj.value = 512, 256
            if name == "cudnnGetRNNWeightParams":
                matrix, bias = arguments[7]._obj, arguments[9]._obj
                matrix.value = arguments[4].value + 16 * arguments[5]
                bias.value = arguments[4].value + 1024 + 16 * arguments[5]
            return 0

        return function

    @staticmethod
    def explain(buffer, size):
        assert size.value == len(buffer)
        buffer.value = b"dataType == CUDNN_DATA_BFLOAT16"

    def named(self, name):
        return [arguments for called, arguments in self.calls if called == name]


def plain(argument):
    """A ctypes argument as Python has it."""
    if isinstance(argument, ctypes.Array):
        return list(argument)
    return argument.value if hasattr(argument, "value") else argument


def test_sizes():
    recorder = Recorder()
    sizes = Cudnn(recorder).sizes(PROBLEM)
    assert (sizes.weights, sizes.workspace, sizes.reserve) == (4096, 512, 256)
    matrices = [16 * layer for layer in range(6)]
    assert sizes.offsets == (*matrices, *(1024 + offset for offset in matrices))


def test_descriptors():
    recorder = Recorder()
    Cudnn(recorder).sizes(PROBLEM)
    (gru,) = recorder.named("cudnnSetRNNDescriptor_v8")
    wanted = {
        "algo": 0,
        "cellMode": 3,
        "biasMode": 2,
        "dirMode": 0,
        "inputMode": 0,
        "dataType": 9,
        "mathPrec": 0,
        "mathType": 1,
        "inputSize": 4,
        "hiddenSize": 6,
        "projSize": 6,
        "numLayers": 1,
        "auxFlags": 1,
    }
    assert {name: gru[name] for name in wanted} == wanted
    (dropout,) = recorder.named("cudnnSetDropoutDescriptor")
    assert dropout.pop("dropoutDesc") == gru["dropoutDesc"]
    assert dropout.pop("handle") and not any(dropout.values())
    x, states = recorder.named("cudnnSetRNNDataDescriptor")
    assert (x["vectorSize"], states["vectorSize"]) == (4, 6)
    for each in (x, states):
        assert (each["layout"], each["maxSeqLength"], each["batchSize"]) == (0, 5, 3)
        assert each["seqLengthArray"] == [5, 5, 5]


@pytest.mark.parametrize(
    ("dtype", "tensor_cores", "math_type"),
    [
        ("float32", True, 0),
        ("float32", False, 3),
        ("float16", False, 1),
        ("bfloat16", True, 1),
        ("float64", True, 0),
    ],
)
def test_what_multiplies(dtype, tensor_cores, math_type):
    """The precision decides on TF32 in float32 only; 16-bit floats always use tensor cores."""
    recorder = Recorder()
    Cudnn(recorder).sizes(PROBLEM._replace(dtype=dtype, tensor_cores=tensor_cores))
    (gru,) = recorder.named("cudnnSetRNNDescriptor_v8")
    assert gru["mathType"] == math_type
    assert gru["mathPrec"] == (1 if dtype == "float64" else 0)


def test_passes():
    recorder = Recorder()
    cudnn = Cudnn(recorder)
    addresses = {
        name: 1000 + index
        for index, name in enumerate(
            "lengths x state weights states dstates dx dstate dweights workspace reserve".split()
        )
    }
    forward = "lengths x state weights states workspace reserve".split()
    cudnn.forward(7, PROBLEM, **{name: addresses[name] for name in forward})
    cudnn.backward(7, PROBLEM, **addresses)
    found = [recorder.named(name)[0] for name in list(HEADER)[:3]]
    place = {
        "devSeqLengths": "lengths",
        "x": "x",
        "hx": "state",
        "y": "states",
        "dy": "dstates",
        "dx": "dx",
        "dhx": "dstate",
        "weightSpace": "weights",
        "dweightSpace": "dweights",
        "workSpace": "workspace",
        "reserveSpace": "reserve",
    }
    for arguments in found:
        for name in place.keys() & arguments.keys():
            assert arguments[name] == addresses[place[name]], name
        assert arguments["weightSpaceSize"] == 4096
        assert arguments["workSpaceSize"] == 512
        assert arguments["reserveSpaceSize"] == 256
        for name in ("hy", "dhy", "cDesc", "cx", "cy", "dcx", "dcy"):
            assert arguments.get(name) is None
        assert arguments["rnnDesc"] == found[0]["rnnDesc"]
        assert len({arguments["xDesc"], arguments["yDesc"], arguments["hDesc"]}) == 3
    assert found[0]["fwdMode"] == 1


def test_a_refusal_is_an_error_with_its_name():
    cudnn = Cudnn(Recorder(failing=("cudnnSetRNNDescriptor_v8",)))
    wanted = r"v8 failed: .*SUPPORTED \(3000\); cuDNN 90100. dataType == CUDNN_DATA_BFLOAT16"
    with pytest.raises(CudnnError, match=wanted):
        cudnn.sizes(PROBLEM)


def test_settings():
    recorder = Recorder()
    settings = Settings("persist_dynamic", "fma", packed=True)
    Cudnn(recorder).sizes(PROBLEM._replace(settings=settings))
    (gru,) = recorder.named("cudnnSetRNNDescriptor_v8")
    assert (gru["algo"], gru["mathType"], gru["auxFlags"]) == (2, 3, 0)
    assert [each["layout"] for each in recorder.named("cudnnSetRNNDataDescriptor")] == [1, 1]
    (built,) = recorder.named("cudnnBuildRNNDynamic")
    assert (built["rnnDesc"], built["miniBatch"]) == (gru["rnnDesc"], 3)


def test_devices_do_not_wait_for_each_other():
    """Two streams are in cuDNN at the same time."""
    recorder, both = Recorder(), threading.Barrier(2, timeout=30)
    recorder.cudnnRNNForward = lambda *arguments: both.wait() and 0
    cudnn = Cudnn(recorder)
    threads = [threading.Thread(target=cudnn.forward, args=(s, PROBLEM, *[0] * 7)) for s in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


@pytest.mark.parametrize("version", [None, 8900])
def test_missing_or_old(version, monkeypatch):
    def load(place):
        if version is None:
            raise OSError(place)
        return Recorder(version)

    monkeypatch.setattr(library.ctypes, "CDLL", load)
    load_cudnn.cache_clear()
    with pytest.raises(CudnnError, match="cuDNN 9. cannot be loaded"):
        load_cudnn()
    assert not has_cudnn()


needs_cudnn = pytest.mark.skipif(
    not has_cudnn(), reason="cuDNN is not installed: its own checks are not asked"
)
SIZES = ((1, 1, 1, 1), (5, 3, 4, 6), (65_535, 1, 1, 1), (7, 33, 129, 193), (200, 64, 128, 1024))
# One of them is compiled on a GPU when it is described.
ALGORITHMS = ("standard", "persist_static", "persist_static_small_h")


@pytest.fixture
def real(monkeypatch):
    """cuDNN without a handle, which asks for a GPU: its descriptor of no dropout is not set."""
    cudnn = load_cudnn()
    monkeypatch.setattr(cudnn, "_no_dropout", lambda: cudnn._create("cudnnCreateDropoutDescriptor"))
    return cudnn


@needs_cudnn
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_cudnn_takes_every_descriptor(dtype, real):
    """cuDNN checks descriptors without a GPU: wrong enumerations or sizes are refused."""
    algorithms = ALGORITHMS[:1] if dtype == "float64" else ALGORITHMS
    maths = (None, "default", "tensor_op", "fma")
    settings = [Settings(*each) for each in itertools.product(algorithms, maths, (True, False))]
    flags = (True, False)
    for sizes, tensor_cores, training, each in itertools.product(SIZES, flags, flags, settings):
        problem = Problem(*sizes, dtype, tensor_cores, training, each)
        assert real._describe(problem).gru.value


@needs_cudnn
@pytest.mark.parametrize(
    ("change", "failed", "reason"),
    [
        ({"units": 0}, "cudnnSetRNNDescriptor_v8", "hiddenSize < 1"),
        ({"features": 0}, "cudnnSetRNNDescriptor_v8", "inputSize < 1"),
        ({"batch": 0}, "cudnnSetRNNDataDescriptor", "batchSize <= 0"),
        ({"time": 65_536}, "cudnnSetRNNDataDescriptor", "NOT_SUPPORTED"),
        ({"dtype": "float64", "settings": Settings("persist_static")}, "_v8", "NOT_SUPPORTED"),
    ],
)
def test_cudnn_refuses_and_says_why(change, failed, reason, real):
    with pytest.raises(CudnnError, match=f"{failed} failed: .*{reason}"):
        real._describe(PROBLEM._replace(**change))
