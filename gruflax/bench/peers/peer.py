"""A contestant, and how one that uses JAX becomes a program."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gruflax.bench.case import DEVICES, DTYPES, MODES, VALUE_AND_GRAD, Case
from gruflax.functional.checks import at_least_float32


GRUFLAX, JAX_PEER, OTHER, FLOOR = "gruflax", "jax", "other", "floor"


class Program(NamedTuple):
    """Something to time.

    Attributes:
        run: does the work once and returns when it is done: outputs `[b, t, u]`, or the loss and
            the gradients.
        compile_seconds: of tracing and compiling; None where nothing is compiled.
        temp_bytes: peak temporary memory as the compiler planned it; None where none tells.
    """

    run: Callable[[], Any]
    compile_seconds: float | None = None
    temp_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant of the benchmark.

    Attributes:
        name: as the tables show it.
        kind: "gruflax"; "jax", whose best is compared with gruflax; "other"; or "floor".
        make: makes the program of a case in a mode; imports its library.
        modules: what has to be importable.
        package: what to install where it is not.
        modes: what it can do.
        masks: whether it takes right-padded sequences.
        dtypes: in which it can compute.
        devices: on which it can run.
        note: how its work differs, if it does.
        mask_note: how its work differs where there is a mask.
    """

    name: str
    kind: str
    make: Callable[[Case, str], Program]
    modules: tuple[str, ...] = ()
    package: str = ""
    modes: tuple[str, ...] = MODES
    masks: bool = True
    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] = DEVICES
    note: str = ""
    mask_note: str = ""

    def available(self) -> bool:
        """Whether its libraries are installed."""
        return all(importlib.util.find_spec(module) for module in self.modules)

    def obstacle(self, case: Case, mode: str) -> str | None:
        """Says why it cannot take part, or returns None.

        Args:
            case: the problem.
            mode: "forward", "value_and_grad" or "step".

        Returns:
            A clause such as "is not installed", or None.
        """
        if not self.available():
            return f"is not installed (pip install {self.package})"
        if mode not in self.modes:
            return f"has no {mode}"
        if case.masked and not self.masks:
            return "takes no mask"
        if case.dtype not in self.dtypes:
            return f"does not compute in {case.dtype}"
        if case.device not in self.devices:
            return f"does not run on a {case.device}"
        return None

    def build(self, case: Case, mode: str) -> Program:
        """Makes the program, compiled for the case's device.

        Args:
            case: the problem.
            mode: "forward", "value_and_grad" or "step".

        Returns:
            The `Program`.
        """
        return self.make(case, mode)


class Inputs(NamedTuple):
    """The arrays of a case on its JAX device.

    Attributes:
        x: `[b, t, f]` in the case's dtype.
        mask: `[b, t]` bool, or None.
        lengths: `[b]` int32, or None; says the same as `mask`.
    """

    x: jax.Array
    mask: jax.Array | None
    lengths: jax.Array | None


# The libraries' own layers are typed to return more than arrays.
Apply = Callable[[Any, Inputs], Any]


def jax_program(case: Case, mode: str, apply: Apply, params: Any) -> Program:
    """Compiles a GRU, or its loss and gradients, for a case.

    Args:
        case: the problem.
        mode: "forward" or "value_and_grad".
        apply: makes the outputs `[b, t, u]` from parameters and `Inputs`.
        params: a tree of arrays.

    Returns:
        The `Program`.
    """
    mask, lengths = case.mask(), case.lengths()
    inputs = Inputs(
        jnp.asarray(case.inputs(), case.dtype),
        None if mask is None else jnp.asarray(mask),
        None if lengths is None else jnp.asarray(lengths),
    )

    def loss(params: Any, inputs: Inputs) -> jax.Array:
        return mean_square(apply(params, inputs), inputs.mask)

    function = jax.value_and_grad(loss) if mode == VALUE_AND_GRAD else apply
    return compiled_program(case, function, params, inputs)


class Executable(NamedTuple):
    """A compiled function and what its compiler told.

    Attributes:
        call: the function, of arrays on the case's device.
        arguments: those it was compiled for, on that device.
        seconds: of tracing and compiling.
        temp_bytes: peak temporary memory as planned, or None.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    seconds: float
    temp_bytes: int | None


def compile_for(case: Case, function: Callable[..., Any], *arguments: Any) -> Executable:
    """Compiles a function for given arguments on the case's device, and times that once.

    Args:
        case: says which device.
        function: of arrays.
        *arguments: trees of arrays.

    Returns:
        The `Executable`.
    """
    arguments = jax.device_put(arguments, case.jax_device)
    start = time.perf_counter()
    # A new function, so that no cache spares the tracing.
    call = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    temp_bytes = getattr(call.memory_analysis(), "temp_size_in_bytes", None)
    return Executable(call, arguments, seconds, temp_bytes)


def compiled_program(case: Case, function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function to a program that calls it and waits, always with the same arguments.

    Args:
        case: says which device.
        function: of arrays.
        *arguments: trees of arrays.

    Returns:
        The `Program`.
    """
    executable = compile_for(case, function, *arguments)
    call, arguments = executable.call, executable.arguments
    run = lambda: jax.block_until_ready(call(*arguments))  # noqa: E731
    return Program(run, executable.seconds, executable.temp_bytes)


def mean_square(outputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The loss of every JAX contestant: the mean of squares over the valid outputs.

    Args:
        outputs: `[b, t, u]`.
        mask: `[b, t]` bool, or None.

    Returns:
        `[]`, float32 or wider.
    """
    squares = jnp.square(outputs.astype(at_least_float32(outputs.dtype)))
    return squares.mean(where=None if mask is None else mask[..., None])
