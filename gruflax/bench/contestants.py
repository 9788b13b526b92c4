"""The contestants of the benchmark: programs of GRUs in JAX, and gruflax's own loops."""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gruflax.bench.case import VALUE_AND_GRAD, Case
from gruflax.functional import GRUConfig, gru_sequence, init_gru_params
from gruflax.functional.checks import at_least_float32
from gruflax.functional.loops.choice import LOOPS
from gruflax.functional.loops.native.library import peak_scratch_bytes


# Kinds of contestants: gruflax's loops, other JAX libraries, libraries that do not use JAX, and
# gruflax on an easier case.
GRUFLAX, JAX_PEER, OTHER, BASELINE = "gruflax", "jax", "other", "baseline"
SUBJECT = "gruflax (auto)"

# A pytree of arrays in the form of its library.
Tree = Any


def arrays_of(outcome: Tree) -> list[np.ndarray]:
    """Returns the arrays of a pytree."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(outcome)]


class Program(NamedTuple):
    """A program to time, with its compile time and its temporary memory where they are known.

    `run` does the work once and waits until it is done. It returns the outputs `[b, t, u]`, or a
    loss and its gradients. `arrays` turns that result into NumPy arrays.
    """

    run: Callable[[], Tree]
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    arrays: Callable[[Tree], list[np.ndarray]] = arrays_of


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant of the benchmark.

    Args:
        name: the name in the tables.
        kind: `GRUFLAX`, `JAX_PEER`, `OTHER` or `BASELINE`.
        make: a function that makes its program for a case and a mode.
        package: the names of the packages that it needs, for pip. Default "": none.
        lacks: the modes and dtypes that it does not support, and any of "masks", "recurrent
            dropout" and "jax.vmap". Default ().
        same: whether its numbers must agree with those of gruflax. Default True.
        note: a remark on how its work differs from that of the others. Default "".
    """

    name: str
    kind: str
    make: Callable[[Case, str], Program]
    package: str = ""
    lacks: tuple[str, ...] = ()
    same: bool = True
    note: str = ""

    def obstacle(self, case: Case, mode: str) -> str | None:
        """Returns the reason why it cannot take part in a case, or None."""
        modules = (name.removeprefix("dm-") for name in self.package.split())
        if not all(map(importlib.util.find_spec, modules)):
            return f"is not installed (pip install {self.package})"
        wanted = {
            mode: True,
            "masks": case.masked,
            "recurrent dropout": case.dropout,
            "jax.vmap": case.members or case.per_example,
            case.dtype: True,
        }
        missing = (what for what, needed in wanted.items() if needed and what in self.lacks)
        return next((f"has no {what}" for what in missing), None)


class Inputs(NamedTuple):
    """Inputs `[b, t, f]`; a mask `[b, t]` and the same as lengths `[b]`, or None; and a key.

    Under `jax.vmap` over the examples there is no batch axis. The key is None without dropout.
    """

    x: jax.Array
    mask: jax.Array | None
    lengths: jax.Array | None
    key: jax.Array | None = None


Apply = Callable[[Tree, Inputs], Tree]
Params = dict[str, jax.Array]


def jax_program(case: Case, mode: str, apply: Apply, params: Tree) -> Program:
    """Compiles `apply(params, inputs) -> outputs`, or a loss and its gradients, for a case.

    The gradients are those of parameters and inputs. The loss of several members is their sum. The
    gradients of single examples are those of the parameters only.
    """
    mask, lengths = case.mask(), case.lengths()
    inputs = Inputs(
        jnp.asarray(case.inputs(), case.dtype),
        None if mask is None else jnp.asarray(mask),
        None if lengths is None else jnp.asarray(lengths),
        jax.random.key(1) if case.dropout else None,
    )
    params = jax.tree.map(jnp.asarray, params)
    if case.members:
        params = jax.tree.map(functools.partial(_stack, case.members), params)
    function = _training(case, apply) if mode == VALUE_AND_GRAD else _mapped(case, apply)
    arguments = jax.device_put((params, inputs), case.jax_device)
    start = time.perf_counter()
    # A new function is traced anew, whatever JAX has cached.
    call = jax.jit(lambda *arguments: function(*arguments)).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    temp_bytes = getattr(call.memory_analysis(), "temp_size_in_bytes", None)
    return Program(lambda: jax.block_until_ready(call(*arguments)), seconds, temp_bytes)


def _training(case: Case, apply: Apply) -> Apply:
    """Returns the function from parameters and inputs to the loss and the gradients."""

    def loss(params: Tree, inputs: Inputs) -> jax.Array:
        return mean_square(apply(params, inputs), inputs.mask)

    def total(params: Tree, x: jax.Array, inputs: Inputs) -> jax.Array:
        return _mapped(case, loss)(params, inputs._replace(x=x)).sum()

    if case.per_example:
        return _mapped(case, jax.value_and_grad(loss))
    gradients = jax.value_and_grad(total, argnums=(0, 1))
    return lambda params, inputs: gradients(params, inputs.x, inputs)


def _mapped(case: Case, function: Apply) -> Apply:
    """Maps a function of parameters and inputs over the members or the examples of a case."""
    if case.members:
        return jax.vmap(function, (0, Inputs._make((0, None, None, None))))
    if case.per_example:
        return jax.vmap(function, (None, Inputs._make((0, 0, 0, None))))
    return function


def _stack(members: int, leaf: jax.Array) -> jax.Array:
    """Stacks an array `[...]` with larger copies, by up to a tenth, to `[members, ...]`."""
    return jnp.stack([leaf * (1 + member / members / 10) for member in range(members)])


def mean_square(outputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the loss of every contestant in JAX: the mean square of the valid outputs."""
    squares = jnp.square(outputs.astype(at_least_float32(outputs.dtype)))
    return squares.mean(where=None if mask is None else mask[..., None])


def gruflax_params(case: Case) -> Params:
    """Draws parameters as Keras does, but with a bias that is not zero."""
    key, bias, dtype = jax.random.key(0), jax.nn.initializers.normal(0.1), jnp.dtype(case.dtype)
    return init_gru_params(key, case.features, case.units, bias_initializer=bias, dtype=dtype)


def _gruflax(name: str, loop: str = "auto", kind: str = GRUFLAX, **changes: object) -> Peer:
    """Makes a contestant of a loop of gruflax, which runs a case with some fields changed."""

    def make(case: Case, mode: str) -> Program:
        case = dataclasses.replace(case, **changes)
        config = GRUConfig(dropout=case.dropout, recurrent_dropout=case.dropout)

        def apply(params: Tree, inputs: Inputs) -> jax.Array:
            x, mask, _, key = inputs
            return gru_sequence(params, x, config=config, mask=mask, rng=key, loop=loop)[0]

        program = jax_program(case, mode, apply, gruflax_params(case))
        # The compiler does not count the memory that the kernel allocates itself.
        peak_scratch_bytes()
        program.run()
        scratch = peak_scratch_bytes()
        return program._replace(temp_bytes=program.temp_bytes and program.temp_bytes + scratch)

    return Peer(f"gruflax {name}", kind, make, same=kind == GRUFLAX)


LOOP_PEERS = tuple(_gruflax(f"({loop})", loop) for loop in LOOPS)
# gruflax without dropout or without a narrow dtype, which shows what these cost.
NO_DROPOUT = _gruflax("without dropout", kind=BASELINE, dropout=0.0)
FLOAT32 = _gruflax("in float32", kind=BASELINE, dtype="float32")
