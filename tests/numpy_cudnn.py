"""cuDNN's GRU in NumPy, on addresses, by the formulas of its documentation."""

import contextlib
import ctypes
from unittest import mock

import jax.numpy as jnp
import numpy as np

from gruflax.functional.loops.cudnn.library import CudnnError, load_cudnn
from gruflax.functional.loops.cudnn.problem import Problem, Sizes


def array_at(address, shape, dtype):
    """The memory at an address as an array."""
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, np.uint8).view(jnp.dtype(dtype)).reshape(shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NumpyCudnn:
    """Has the methods of `Cudnn`; its weight space has gaps, and its reserve is used once."""

    def __init__(self):
        self.calls = []

    def sizes(self, problem: Problem) -> Sizes:
        if 0 in problem[:4] or problem.time > 65_535:
            raise CudnnError(f"cuDNN refuses {problem}")
        item, u, f = jnp.dtype(problem.dtype).itemsize, problem.units, problem.features
        counts = [u * f] * 3 + [u * u] * 3 + [u] * 6
        starts = np.cumsum([2, *(count + 3 for count in counts)]) * item
        reserve = item * problem.time * problem.batch * 4 * u if problem.training else 0
        return Sizes(int(starts[-1]), tuple(map(int, starts[:-1])), 64, reserve)

    def _weights(self, problem, address):
        u, f = problem.units, problem.features
        shapes = [(u, f)] * 3 + [(u, u)] * 3 + [(u,)] * 6
        offsets = self.sizes(problem).offsets
        pieces = [
            array_at(address + offset, shape, problem.dtype)
            for offset, shape in zip(offsets, shapes, strict=True)
        ]
        return pieces[:3], pieces[3:6], pieces[6:9], pieces[9:]

    def forward(self, stream, problem, lengths, x, state, weights, states, workspace, reserve):
        self.calls.append(("forward", problem))
        t, b, f, u = problem[:4]
        assert (array_at(lengths, (b,), "int32") == t).all()
        x, h = array_at(x, (t, b, f), problem.dtype), array_at(state, (b, u), problem.dtype)
        states = array_at(states, (t, b, u), problem.dtype)
        inputs, recurrent, input_bias, bias = self._weights(problem, weights)
        for step in range(t):
            of_x = [x[step] @ w.T + c for w, c in zip(inputs, input_bias, strict=True)]
            of_h = [h @ r.T + c for r, c in zip(recurrent, bias, strict=True)]
            r, i = (sigmoid(of_x[gate] + of_h[gate]) for gate in range(2))
            n = np.tanh(of_x[2] + r * of_h[2])
            h = (1 - i) * n + i * h
            states[step] = h
            if problem.training:
                array_at(reserve, (t, b, 4, u), problem.dtype)[step] = np.stack(
                    [r, i, n, of_h[2]], axis=1
                )

    def backward(
        self,
        stream,
        problem,
        lengths,
        x,
        state,
        weights,
        states,
        dstates,
        dx,
        dstate,
        dweights,
        workspace,
        reserve,
    ):
        self.calls.append(("backward", problem))
        t, b, f, u = problem[:4]

        def at(address, *shape):
            return array_at(address, shape, problem.dtype)

        x, dx = at(x, t, b, f), at(dx, t, b, f)
        before = np.concatenate([at(state, 1, b, u), at(states, t, b, u)[:-1]])
        gates, dstates = at(reserve, t, b, 4, u), at(dstates, t, b, u)
        inputs, recurrent, *_ = self._weights(problem, weights)
        d_inputs, d_recurrent, d_input_bias, d_bias = self._weights(problem, dweights)
        dh = np.zeros((b, u), x.dtype)
        for step in reversed(range(t)):
            r, i, n, of_h = np.moveaxis(gates[step], 1, 0)
            dh = dh + dstates[step]
            dn = dh * (1 - i) * (1 - n**2)
            dr, di = dn * of_h * r * (1 - r), dh * (before[step] - n) * i * (1 - i)
            of_x, of_state = (dr, di, dn), (dr, di, dn * r)
            dx[step] = sum(d @ w for d, w in zip(of_x, inputs, strict=True))
            for gate in range(3):
                d_inputs[gate][...] += of_x[gate].T @ x[step]
                d_recurrent[gate][...] += of_state[gate].T @ before[step]
                d_input_bias[gate][...] += of_x[gate].sum(0)
                d_bias[gate][...] += of_state[gate].sum(0)
            dh = dh * i + sum(d @ w for d, w in zip(of_state, recurrent, strict=True))
        at(dstate, b, u)[...] = dh
        gates[...] = np.nan


class RecordedCudnn:
    """cuDNN itself, on a GPU, with the list of calls that the stand-in has."""

    def __init__(self):
        self.calls, self.sizes = [], load_cudnn().sizes

    def forward(self, stream, problem, *addresses):
        self.calls.append(("forward", problem))
        load_cudnn().forward(stream, problem, *addresses)

    def backward(self, stream, problem, *addresses):
        self.calls.append(("backward", problem))
        load_cudnn().backward(stream, problem, *addresses)


@contextlib.contextmanager
def in_place_of_cudnn(stand_in):
    """Has the loop call a stand-in; a NumPy cuDNN on a platform that passes for a GPU."""
    room = "gruflax.functional.loops.cudnn"
    changes = {"passes.load_cudnn": lambda: stand_in, "loop.load_cudnn": lambda: stand_in}
    if isinstance(stand_in, NumpyCudnn):
        changes |= {
            "passes._stream": lambda context: 0,
            "passes._address": lambda buffer: np.asarray(buffer).ctypes.data,
            "passes._on_a_gpu": lambda *arrays: list(arrays),
            "conditions._platform_conditions": lambda dtype: {},
        }
    with contextlib.ExitStack() as stack:
        for name, change in changes.items():
            stack.enter_context(mock.patch(f"{room}.{name}", change))
        yield stand_in
