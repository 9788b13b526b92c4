"""The contestants that are gruflax or the machine, and how any that uses JAX becomes a program."""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gruflax.bench.case import DEVICES, DTYPES, MODES, VALUE_AND_GRAD, Case
from gruflax.functional import GRUConfig, gru_sequence, init_gru_params
from gruflax.functional.checks import at_least_float32
from gruflax.functional.loops.choice import LOOPS
from gruflax.functional.loops.native.library import peak_scratch_bytes
from gruflax.functional.params import GATES


GRUFLAX, JAX_PEER, OTHER = "gruflax", "jax", "other"
# What is timed beside the contestants, to compare with.
BASELINE, PRODUCT = "baseline", "product"


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
    dropout: bool = False
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
        if case.dropout and not self.dropout:
            return "has no recurrent dropout"
        if (case.members or case.per_example) and self.kind == OTHER:
            return "cannot be mapped by jax.vmap"
        if case.dtype not in self.dtypes:
            return f"does not compute in {case.dtype}"
        if case.device not in self.devices:
            return f"does not run on a {case.device}"
        return None


class Inputs(NamedTuple):
    """Inputs `[b, t, f]`; a mask `[b, t]` and lengths `[b]` that say the same, or None.

    One of several examples, which are mapped, has no batch axis. The key is for dropout.
    """

    x: jax.Array
    mask: jax.Array | None
    lengths: jax.Array | None
    key: jax.Array | None = None


# The libraries' own layers are typed to return more than arrays.
Apply = Callable[[Any, Inputs], Any]


def jax_program(case: Case, mode: str, apply: Apply, params: Any) -> Program:
    """Compiles a GRU, or its loss and gradients by parameters and inputs, for a case.

    The loss of several members is their sum; the gradients of every example are by parameters only.
    """
    mask, lengths = case.mask(), case.lengths()
    inputs = Inputs(
        jnp.asarray(case.inputs(), case.dtype),
        None if mask is None else jnp.asarray(mask),
        None if lengths is None else jnp.asarray(lengths),
        jax.random.key(1) if case.dropout else None,
    )
    if case.members:
        params = jax.tree.map(functools.partial(_stack, case.members), params)

    def loss(params: Any, inputs: Inputs) -> jax.Array:
        return mean_square(apply(params, inputs), inputs.mask)

    def total(params: Any, x: jax.Array, inputs: Inputs) -> jax.Array:
        return _mapped(case, loss)(params, inputs._replace(x=x)).sum()

    def value_and_grad(params: Any, inputs: Inputs) -> Any:
        if case.per_example:
            return _mapped(case, jax.value_and_grad(loss))(params, inputs)
        return jax.value_and_grad(total, argnums=(0, 1))(params, inputs.x, inputs)

    function = value_and_grad if mode == VALUE_AND_GRAD else _mapped(case, apply)
    return compiled_program(case, function, params, inputs)


def _stack(members: int, leaf: jax.Array) -> jax.Array:
    """Stacks an array with copies of it that grow by up to a tenth."""
    return jnp.stack([leaf * (1 + member / members / 10) for member in range(members)])


def _mapped(case: Case, function: Callable[[Any, Inputs], Any]) -> Callable[[Any, Inputs], Any]:
    """Maps a function of parameters and inputs over the members or the examples of a case."""
    if case.members:
        return jax.vmap(function, (0, Inputs._make((0, None, None, None))))
    if case.per_example:
        return jax.vmap(function, (None, Inputs._make((0, 0, 0, None))))
    return function


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
    config = GRUConfig(dropout=case.dropout, recurrent_dropout=case.dropout)

    def apply(params: dict[str, jax.Array], inputs: Inputs) -> jax.Array:
        x, mask, _, key = inputs
        return gru_sequence(params, x, config=config, mask=mask, rng=key, loop=loop, chunk=chunk)[0]

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
        dropout=True,
        devices=("gpu",) if loop == "cudnn" else DEVICES,
    )
    for loop in LOOPS
)


def chunk_peer(steps: int) -> Peer:
    """Makes the contestant that is the chunked loop with so many steps per chunk."""
    make = functools.partial(_make, "chunked", chunk=steps)
    return Peer(f"gruflax (chunked {steps})", GRUFLAX, make, dropout=True)


def _baseline(without: str, **changes: Any) -> Peer:
    """Makes the contestant that is gruflax on a case with some fields changed."""

    def make(case: Case, mode: str) -> Program:
        return _make("auto", dataclasses.replace(case, **changes), mode)

    return Peer(f"gruflax {without}", BASELINE, make, dropout=True)


NO_DROPOUT = _baseline("without dropout", dropout=0.0)
FLOAT32 = _baseline("in float32", dtype="float32")


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

    A backward pass has two products for each of the forward pass; what a loop computes again, it
    does of its own choice.
    """
    products = case.batch * case.time * (case.features + case.units) * GATES * case.units
    passes = 3 if mode == VALUE_AND_GRAD else 1
    return passes * products / seconds / (PRODUCT_SIZE**3 / product_seconds)
