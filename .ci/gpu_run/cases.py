"""The calls whose numbers are compared, and what is computed of each."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gruflax


SIZES = 7, 33, 9, 33
RANDOM = np.random.default_rng(3)
MASK = RANDOM.random(SIZES[:2]) < 0.6
MASK[1] = False
RESET = RANDOM.random(SIZES[:2]) < 0.1
LENGTHS = np.array([33, 0, 1, 17, 32, 33, 5])
# Arrays of a call that a layer takes when it is called; all else are its fields.
PER_CALL = ("mask", "seq_lengths", "reset")


class Case(NamedTuple):
    """One call: sizes (batch, time, features, units), its options, and what is done with it."""

    name: str
    change: str = "gradients"
    sizes: tuple[int, int, int, int] = SIZES
    batch: tuple[int, ...] | None = None
    options: dict[str, Any] = {}
    precision: str | None = "highest"

    @property
    def time_major(self) -> bool:
        """Whether time is the first axis."""
        return self.options.get("time_major", False)


CASES = (
    *(
        Case(f"sizes {sizes}", sizes=sizes)
        for sizes in ((1, 7, 33, 129), (7, 33, 129, 1), (33, 129, 1, 7), (129, 1, 7, 33))
    ),
    Case("mask", options={"mask": MASK}),
    Case("left-padded", options={"mask": np.arange(33) >= np.array([[0, 2, 33, 5, 9, 1, 32]]).T}),
    Case("lengths", options={"seq_lengths": LENGTHS}),
    Case("resets", options={"reset": RESET, "mask": MASK}),
    Case("backwards", options={"go_backwards": True, "mask": MASK}),
    Case("time-major", options={"time_major": True, "mask": MASK.T}),
    Case("zeros for masks", options={"zero_output_for_mask": True, "mask": MASK}),
    Case("last output", options={"return_sequences": False}),
    Case("no batch axis", batch=()),
    Case("two batch axes", batch=(2, 3)),
    Case("reset before", options={"reset_after": False}),
    Case("remat", options={"remat": True}),
    Case("without jit", "eager"),
    Case("vmap over data", "over data"),
    Case("vmap over parameters", "over parameters"),
    Case("gradient of vmap", "gradient of vmap"),
    Case("forward mode", "forward mode"),
    Case("second derivatives", "second derivatives"),
    Case("pulled back twice", "pulled back twice"),
    Case("donated inputs", "donated"),
    Case("large", sizes=(64, 200, 128, 256)),
    Case("large, default precision", sizes=(64, 200, 128, 256), precision=None),
    Case("large, TF32 refused", sizes=(64, 200, 128, 256), precision="F32_F32_F32"),
)


class Arrays(NamedTuple):
    """Arguments to differentiate by, and weights of outputs and state in the loss."""

    arguments: tuple[Any, jax.Array, jax.Array]
    weights: tuple[np.ndarray, np.ndarray]


def draw(case: Case, dtype: str, dry: bool) -> Arrays:
    """Draws parameters, inputs `[..., t, f]` and a state `[..., u]`, rounded to a dtype."""
    b, t, f, u = case.sizes if not dry else (min(size, 33) for size in case.sizes)
    batch = (b,) if case.batch is None else case.batch
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    steps = (t, *batch) if case.time_major else (*batch, t)
    bias = (2, 3 * u) if case.options.get("reset_after", True) else (3 * u,)
    # Products of the size that trained weights have, whatever the sizes are.
    shapes = {"kernel": (f, 3 * u), "recurrent_kernel": (u, 3 * u), "bias": bias}
    params = {
        name: jnp.asarray(random.normal(size=shape) / np.sqrt(shape[0]), dtype)
        for name, shape in shapes.items()
    }
    x, h = (jnp.asarray(random.normal(size=shape), dtype) for shape in ((*steps, f), (*batch, u)))
    outputs = (*steps, u) if case.options.get("return_sequences", True) else (*batch, u)
    weights = random.normal(size=outputs), random.normal(size=(*batch, u))
    return Arrays((params, x, h), weights)


def loss_of(case: Case, path: str, weights: tuple[np.ndarray, np.ndarray]) -> Callable[..., Any]:
    """Returns `loss(params, x, h) -> (number, (outputs, state))` of a loop, or of a layer's."""
    options = dict(case.options)
    config = gruflax.GRUConfig(reset_after=options.pop("reset_after", True))

    def sequence(params, x, h):
        return gruflax.gru_sequence(
            params,
            x,
            config=config,
            initial_state=h,
            loop=path,
            precision=case.precision,
            **options,
        )

    def layer(params, x, h):
        fields = {"return_sequences": True, **options, "precision": case.precision}
        arrays = {name: fields.pop(name) for name in PER_CALL if name in fields}
        gru = gruflax.GRU(
            h.shape[-1],
            use_cudnn=True,
            return_state=True,
            reset_after=config.reset_after,
            **fields,
        )
        return gru.apply({"params": params}, x, initial_state=h, **arrays)

    run = layer if path == "use_cudnn" else sequence

    def loss(params, x, h):
        results = run(params, x, h)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        terms = [
            (result.astype(wide) * each.astype(wide)).sum()
            for result, each in zip(results, weights, strict=True)
        ]
        return sum(terms), results

    return loss


def program_of(change: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what is computed of a loss: a function of params, x and h."""
    # Not the loss itself: terms of either sign cancel in it, and their errors do not.
    gradients = jax.grad(loss, (0, 1, 2), has_aux=True)
    # By the state alone, which sees every step, and stays small.
    by_state = jax.grad(lambda params, x, h: loss(params, x, h)[0], 2)

    def stacked(array):
        return jnp.stack([array, -array])

    def over_data(params, x, h):
        return jax.vmap(gradients, (None, 0, None))(params, stacked(x), h)

    def over_parameters(params, x, h):
        return jax.vmap(gradients, (0, None, None))(jax.tree.map(stacked, params), x, h)

    def gradient_of_vmap(params, x, h):
        mapped = jax.vmap(lambda x, h: loss(params, x, h)[0])
        return jax.grad(lambda x, h: mapped(x, h).sum(), (0, 1))(stacked(x), stacked(h))

    def forward_mode(params, x, h):
        return jax.jvp(lambda *each: loss(*each)[1], (params, x, h), (params, x, h))

    def second_derivatives(params, x, h):
        return jax.jvp(lambda x: by_state(params, x, h), (x,), (x,))

    def pulled_back_twice(params, x, h):
        pull = jax.vjp(lambda *each: loss(*each)[0], params, x, h)[1]
        one = jnp.ones((), jnp.promote_types(x.dtype, jnp.float32))
        return pull(one), pull(one)

    if change == "eager":
        return gradients
    if change == "donated":
        run = jax.jit(gradients, donate_argnums=(1, 2))
        return lambda params, x, h: run(params, jnp.copy(x), jnp.copy(h))
    programs = {
        "gradients": gradients,
        "over data": over_data,
        "over parameters": over_parameters,
        "gradient of vmap": gradient_of_vmap,
        "forward mode": forward_mode,
        "second derivatives": second_derivatives,
        "pulled back twice": pulled_back_twice,
    }
    return jax.jit(programs[change])


# The reference's programs: the weights of a case are the same in every dtype.
_references: dict[str, Callable[..., Any]] = {}


def reference(case: Case, arrays: Arrays) -> list[np.ndarray]:
    """Computes the same on the CPU in float64, by the scan."""
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        # By way of NumPy: the arrays lie on the device that is asked.
        exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), arrays)
        if case.name not in _references:
            change = "gradients" if case.change in ("eager", "donated") else case.change
            loss = loss_of(case._replace(precision=None), "scan", exact.weights)
            _references[case.name] = program_of(change, loss)
        run = _references[case.name]
        return [np.asarray(leaf) for leaf in jax.tree.leaves(run(*exact.arguments))]


def largest_error(found: Any, wanted: list[np.ndarray]) -> float:
    """Returns the largest of the relative errors, `|found - wanted| / |wanted|` of each array."""
    errors = []
    for leaf, exact in zip(jax.tree.leaves(found), wanted, strict=True):
        difference = np.linalg.norm(np.asarray(leaf, np.float64) - exact)
        errors.append(float(difference / max(np.linalg.norm(exact), 1e-30)))
    # Of numbers alone the largest hides a NaN.
    return float(np.max(errors))
