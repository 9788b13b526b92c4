"""The contestants that are gruflax or the machine, and how any that uses JAX becomes a program."""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gruflax.bench.case import DEVICES, DTYPES, MODES, STEP, VALUE_AND_GRAD, Case
from gruflax.functional import gru_cell_step, gru_sequence, init_gru_params
from gruflax.functional.checks import at_least_float32
from gruflax.functional.loops.native.library import peak_scratch_bytes
from gruflax.functional.params import GATES
from gruflax.functional.sequence import LOOPS


GRUFLAX, JAX_PEER, OTHER, PRODUCT = "gruflax", "jax", "other", "product"


class Program(NamedTuple):
    """Something to time, and what its compiler told, if any.

    `run` does the work once and returns, when done, outputs `[b, t, u]` or loss and gradients.
    """

    run: Callable[[], Any]
    compile_seconds: float | None = None
    temp_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant of the benchmark.

    The best of the kind "jax" is compared with gruflax. `make` makes the program of a case in a
    mode, and imports the `modules` that `package` installs. The notes say how its work differs,
    always or where there is a mask.
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
        """Says why it cannot take part, or returns None."""
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


class Inputs(NamedTuple):
    """Inputs `[b, t, f]`; a mask `[b, t]` and lengths `[b]` that say the same, or None."""

    x: jax.Array
    mask: jax.Array | None
    lengths: jax.Array | None


# The libraries' own layers are typed to return more than arrays.
Apply = Callable[[Any, Inputs], Any]


def jax_program(case: Case, mode: str, apply: Apply, params: Any) -> Program:
    """Compiles a GRU, or its loss and gradients by parameters and inputs, for a case."""
    mask, lengths = case.mask(), case.lengths()
    inputs = Inputs(
        jnp.asarray(case.inputs(), case.dtype),
        None if mask is None else jnp.asarray(mask),
        None if lengths is None else jnp.asarray(lengths),
    )

    def loss(params: Any, x: jax.Array, inputs: Inputs) -> jax.Array:
        return mean_square(apply(params, inputs._replace(x=x)), inputs.mask)

    def value_and_grad(params: Any, inputs: Inputs) -> Any:
        return jax.value_and_grad(loss, argnums=(0, 1))(params, inputs.x, inputs)

    function = value_and_grad if mode == VALUE_AND_GRAD else apply
    return compiled_program(case, function, params, inputs)


class Executable(NamedTuple):
    """A compiled function with its arguments on the device, and what its compiler told."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    seconds: float
    temp_bytes: int | None


def compile_for(case: Case, function: Callable[..., Any], *arguments: Any) -> Executable:
    """Compiles a function for given arguments on the case's device, and times that once."""
    arguments = jax.device_put(arguments, case.jax_device)
    start = time.perf_counter()
    # A new function, so that no cache spares the tracing.
    call = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    temp_bytes = getattr(call.memory_analysis(), "temp_size_in_bytes", None)
    return Executable(call, arguments, seconds, temp_bytes)


def compiled_program(case: Case, function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function to a program that calls it and waits, always with the same arguments."""
    executable = compile_for(case, function, *arguments)
    call, arguments = executable.call, executable.arguments
    run = lambda: jax.block_until_ready(call(*arguments))  # noqa: E731
    return Program(run, executable.seconds, executable.temp_bytes)


def mean_square(outputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The loss of every JAX contestant: the mean of squares over the valid outputs."""
    squares = jnp.square(outputs.astype(at_least_float32(outputs.dtype)))
    return squares.mean(where=None if mask is None else mask[..., None])


SUBJECT = "gruflax (auto)"


def gruflax_params(case: Case) -> dict[str, jax.Array]:
    """Draws parameters as Keras does, but for the bias, which is not zero."""
    return init_gru_params(
        jax.random.key(0),
        case.features,
        case.units,
        bias_initializer=jax.nn.initializers.normal(0.1),
        dtype=jnp.dtype(case.dtype),
    )


def _make(loop: str, case: Case, mode: str, chunk: int | None = None) -> Program:
    def apply(params: dict[str, jax.Array], inputs: Inputs) -> jax.Array:
        return gru_sequence(params, inputs.x, mask=inputs.mask, loop=loop, chunk=chunk)[0]

    program = jax_program(case, mode, apply, gruflax_params(case))
    # The kernel's own memory, which the compiler does not know of.
    peak_scratch_bytes()
    program.run()
    scratch = peak_scratch_bytes()
    return program._replace(temp_bytes=program.temp_bytes and program.temp_bytes + scratch)


LOOP_PEERS = tuple(
    Peer(
        f"gruflax ({loop})",
        GRUFLAX,
        functools.partial(_make, loop),
        devices=("gpu",) if loop == "cudnn" else DEVICES,
    )
    for loop in LOOPS
)


def chunk_peer(steps: int) -> Peer:
    """Makes the contestant that is the chunked loop with so many steps per chunk."""
    return Peer(
        f"gruflax (chunked {steps})", GRUFLAX, functools.partial(_make, "chunked", chunk=steps)
    )


PRODUCT_SIZE = 2048


def make_product(case: Case, mode: str) -> Program:
    """Makes a product of two square matrices: what the machine can do."""
    square = jax.random.normal(jax.random.key(0), (PRODUCT_SIZE, PRODUCT_SIZE), case.dtype)
    return compiled_program(case, jnp.dot, square, square)


PRODUCT_PEER = Peer(
    f"a product of {PRODUCT_SIZE}^3",
    PRODUCT,
    make_product,
    note="is no GRU: its rate is what the shares are of",
)


def product_share(case: Case, mode: str, seconds: float, product_seconds: float) -> float:
    """Returns a GRU's products per second over those of the square matrices.

    A backward pass has two products for each of the forward pass, and recomputes that.
    """
    products = case.batch * case.time * (case.features + case.units) * GATES * case.units
    passes = 4 if mode == VALUE_AND_GRAD else 1
    return passes * products / seconds / (PRODUCT_SIZE**3 / product_seconds)


def _stepping(
    case: Case, step: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]], params: Any
) -> Program:
    """Compiles `step(params, state, x) -> (state, output)`, and feeds its state back at each call.

    The first state is zeros `[b, u]`.
    """
    state = jnp.zeros((case.batch, case.units), case.dtype)
    x = jnp.asarray(case.inputs()[:, 0], case.dtype)
    executable = compile_for(case, step, params, state, x)
    params, state, x = executable.arguments

    def run() -> jax.Array:
        nonlocal state
        state, output = executable.call(params, state, x)
        return output.block_until_ready()

    return Program(run, executable.seconds, executable.temp_bytes)


def make_cell_step(case: Case, mode: str) -> Program:
    """Makes a jitted `gruflax.gru_cell_step`."""
    return _stepping(
        case, lambda params, state, x: gru_cell_step(params, state, x), gruflax_params(case)
    )


def make_stateful_layer(case: Case, mode: str) -> Program:
    """Makes a jitted `gruflax.GRU(stateful=True)`, whose state is a Flax collection."""
    from gruflax.linen import GRU

    layer = GRU(case.units, stateful=True, return_sequences=True)

    def step(params: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables = {"params": params, "recurrent_state": {"h": state}}
        run: Any = layer.apply
        outputs, updated = run(variables, x[:, None], mutable=["recurrent_state"])
        return updated["recurrent_state"]["h"], outputs[:, 0]

    return _stepping(case, step, gruflax_params(case))


def make_linen_cell(case: Case, mode: str) -> Program:
    """Makes a jitted `flax.linen.GRUCell`."""
    from flax import linen as nn

    cell = nn.GRUCell(case.units)
    state, x = (jnp.zeros((case.batch, size)) for size in (case.units, case.features))
    params = cell.init(jax.random.key(0), state, x)
    step: Any = cell.apply
    return _stepping(case, step, params)


STEP_PEERS = (
    Peer("gruflax.gru_cell_step", GRUFLAX, make_cell_step, modes=(STEP,)),
    Peer("gruflax.GRU (stateful)", GRUFLAX, make_stateful_layer, modes=(STEP,)),
    Peer("flax.linen.GRUCell", JAX_PEER, make_linen_cell, ("flax",), "flax", modes=(STEP,)),
)
