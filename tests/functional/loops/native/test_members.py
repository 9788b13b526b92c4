"""Members: what `jax.vmap` over parameters makes of the native loop, drawn, against the scan.

`GRUFLAX_DRAWS` is the number of draws, for more than the suite has time for.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gruflax
import gruflax.nnx
from gruflax.functional.loops.native.library import native_info


pytestmark = pytest.mark.skipif(
    not native_info().available, reason=f"no native loop: {native_info().reason}"
)

LOOPS = ("native", "scan")
DRAWS = int(os.environ.get("GRUFLAX_DRAWS", "8"))


@dataclasses.dataclass
class Draw:
    """A call, drawn by a number: sizes, conventions, masks, and which arrays differ by member."""

    number: int

    def __post_init__(self):
        random = self.random = np.random.default_rng(self.number)
        choose = lambda *values: values[random.integers(len(values))]  # noqa: E731
        self.members, self.rows, self.time = choose(1, 2, 3, 5), choose(1, 2, 7), choose(2, 3, 9)
        self.features, self.units = choose(1, 3, 8), choose(1, 4, 17)
        self.time_major, backwards, zeros = random.random(3) < 0.5
        self.config = gruflax.GRUConfig(
            activation=choose("tanh", "softsign"),
            use_bias=bool(random.random() < 0.8),
            reset_after=bool(random.random() < 0.6),
            dropout=choose(0.0, 0.3),
            recurrent_dropout=choose(0.0, 0.3),
            implementation=choose(1, 2),
        )
        self.static = {
            "config": self.config,
            "time_major": bool(self.time_major),
            "go_backwards": bool(backwards),
            "zero_output_for_mask": bool(zeros),
            "remat": bool(random.random() < 0.2),
        }
        self.arrays, self.axes = {}, {}
        steps = (self.time, self.rows) if self.time_major else (self.rows, self.time)
        state = self.rows, self.units
        self.add("params", self.params(), always=True)
        self.add("inputs", lambda size: random.normal(size=(*size, *steps, self.features)))
        for name in ("initial_state", "reset_state"):
            self.add(name, lambda size: random.normal(size=(*size, *state)))
        for name, share in (("mask", 0.6), ("reset", 0.5)):
            drawn = lambda size, share=share: random.random((*size, *steps)) < share  # noqa: E731
            self.add(name, drawn, sometimes=name == "mask")

    def params(self):
        gates = 3 * self.units
        shapes = {"kernel": (self.features, gates), "recurrent_kernel": (self.units, gates)}
        if self.config.use_bias:
            shapes["bias"] = (2, gates) if self.config.reset_after else (gates,)
        return lambda size: {
            name: self.random.normal(size=(*size, *shape)) / 2 for name, shape in shapes.items()
        }

    def add(self, name, draw, always=False, sometimes=False):
        if sometimes and self.random.random() < 0.4:
            return
        each = always or self.random.random() < 0.6
        self.arrays[name] = jax.tree.map(jnp.asarray, draw((self.members,) if each else ()))
        self.axes[name] = 0 if each else None

    def single(self):
        """The arrays of the first member."""
        return {
            name: jax.tree.map(lambda leaf, axis=axis: leaf if axis is None else leaf[0], arrays)
            for (name, arrays), axis in zip(self.arrays.items(), self.axes.values(), strict=True)
        }

    def loss(self, loop, arrays):
        outputs, state = gruflax.gru_sequence(
            **arrays, **self.static, rng=jax.random.key(3), loop=loop
        )
        return (jnp.sin(outputs) * outputs).sum() + (state**3).sum(), outputs

    def moving(self, function):
        """Makes `(loop, moving arrays, others)` of a function of the loop and all arrays."""
        names = ("params", "inputs", "initial_state", "reset_state")
        split = lambda arrays, inside: {  # noqa: E731
            name: each for name, each in arrays.items() if (name in names) == inside
        }
        wrapped = lambda loop, one, other: function(loop, one | other)  # noqa: E731
        return wrapped, split


def grad(draw, loop, arrays):
    run, split = draw.moving(lambda loop, arrays: draw.loss(loop, arrays))
    function = jax.value_and_grad(lambda one: run(loop, one, split(arrays, False)), has_aux=True)
    return function(split(arrays, True))


def vmap_of_grad(draw, loop):
    return jax.vmap(lambda arrays: grad(draw, loop, arrays), in_axes=(draw.axes,))(draw.arrays)


def grad_of_vmap(draw, loop):
    run, split = draw.moving(
        lambda loop, arrays: jax.vmap(lambda arrays: draw.loss(loop, arrays)[0], (draw.axes,))(
            arrays
        ).sum()
    )
    function = jax.grad(lambda one: run(loop, one, split(draw.arrays, False)))
    return function(split(draw.arrays, True))


def per_example(draw, loop):
    arrays = {**draw.arrays, "params": draw.single()["params"]}
    axes = {**draw.axes, "params": None, "inputs": 0}
    if draw.axes["inputs"] is None:
        arrays["inputs"] = jnp.stack([arrays["inputs"]] * draw.members)
    return jax.vmap(lambda arrays: grad(draw, loop, arrays), in_axes=(axes,))(arrays)


def vmap_of_vmap(draw, loop):
    """Members by members: the outer ones differ in the parameters, and the inputs are shared."""
    other = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), draw.arrays["params"])
    inner = jax.vmap(lambda arrays: grad(draw, loop, arrays), in_axes=(draw.axes,))
    return jax.vmap(lambda params: inner({**draw.arrays, "params": params}))(other)


def hessian_product(draw, loop):
    def product(arrays):
        gradient = lambda params: grad(draw, loop, {**arrays, "params": params})[1]  # noqa: E731
        params = arrays["params"]
        return jax.jvp(gradient, (params,), (jax.tree.map(jnp.cos, params),))[1]

    return jax.vmap(product, in_axes=(draw.axes,))(draw.arrays)


def tangent(draw, loop):
    def push(arrays):
        run = lambda params: draw.loss(loop, {**arrays, "params": params})  # noqa: E731
        return jax.jvp(run, (arrays["params"],), (arrays["params"],))

    return jax.vmap(push, in_axes=(draw.axes,))(draw.arrays)


def checkpointed(draw, loop):
    run = jax.checkpoint(lambda arrays: grad(draw, loop, arrays))
    return jax.vmap(run, in_axes=(draw.axes,))(draw.arrays)


def alone(draw, loop):
    return grad(draw, loop, draw.single())


TRANSFORMATIONS = (
    alone,
    vmap_of_grad,
    grad_of_vmap,
    per_example,
    vmap_of_vmap,
    hessian_product,
    tangent,
    checkpointed,
)


@pytest.mark.parametrize("number", range(DRAWS))
def test_drawn(number, x64):
    draw = Draw(number)
    transformation = TRANSFORMATIONS[number % len(TRANSFORMATIONS)]
    found, wanted = (jax.jit(lambda loop=loop: transformation(draw, loop))() for loop in LOOPS)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(abs(b).max())))

    jax.tree.map(close, found, wanted)


B, T, F, U = 4, 5, 3, 6
RANDOM = np.random.default_rng(7)
PARAMS = gruflax.init_gru_params(jax.random.key(0), F, U)
MANY = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, leaf / 2, 2 * leaf]), PARAMS)
X = jnp.asarray(RANDOM.normal(size=(4, B, T, F)), jnp.float32)


def loss(params, x, loop="native"):
    outputs, state = gruflax.gru_sequence(params, x, loop=loop)
    return (outputs**2).sum() + state.sum()


def close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


GRADIENT = jax.grad(loss, argnums=(0, 1))
MAPPED = {
    "members": (jax.vmap(GRADIENT), (MANY, X)),
    "members that share their inputs": (jax.vmap(GRADIENT, (0, None)), (MANY, X[0])),
    "gradient of members": (
        jax.grad(lambda p, x: jax.vmap(loss)(p, x).sum(), argnums=(0, 1)),
        (MANY, X),
    ),
    "gradients of each example": (jax.vmap(GRADIENT, (None, 0)), (PARAMS, X)),
    "members of members": (jax.vmap(jax.vmap(GRADIENT, (0, None)), (None, 0)), (MANY, X)),
    "each example of each member": (
        jax.vmap(jax.vmap(GRADIENT, (None, 0)), (0, None)),
        (MANY, X),
    ),
    "one member": (jax.vmap(GRADIENT), (jax.tree.map(lambda leaf: leaf[:1], MANY), X[:1])),
}


@pytest.mark.parametrize("name", MAPPED)
def test_all_members_are_one_call(name):
    function, arguments = MAPPED[name]
    text = jax.jit(function).lower(*arguments).as_text()
    assert (text.count("@gruflax_forward"), text.count("@gruflax_backward")) == (1, 1)


def test_a_member_is_what_it_is_alone():
    """Bit by bit, whatever the others are."""
    found = jax.jit(jax.vmap(GRADIENT))(MANY, X)
    for member in range(4):
        params, x = jax.tree.map(lambda leaf, member=member: leaf[member], (MANY, X))
        alone = jax.jit(jax.vmap(GRADIENT))(*jax.tree.map(lambda leaf: leaf[None], (params, x)))
        jax.tree.map(
            lambda a, b, member=member: np.testing.assert_array_equal(a[member], b[0]), found, alone
        )


def test_no_members():
    none = jax.tree.map(lambda leaf: leaf[:0], (MANY, X))
    found = jax.jit(jax.vmap(GRADIENT))(*none)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, none)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shards_of_members_and_of_rows(kind):
    """Members on one axis of a mesh, rows on the other: gradients are added up over rows alone."""
    mesh = jax.make_mesh((2, 4), ("members", "rows"), axis_types=(kind, kind))
    place = lambda tree, *spec: jax.device_put(  # noqa: E731
        tree, NamedSharding(mesh, PartitionSpec(*spec))
    )
    arguments = place(MANY, "members"), place(X, "members", "rows")
    program = jax.jit(jax.vmap(GRADIENT)).lower(*arguments).compile()
    found, text = program(*arguments), program.as_text()
    close(found, jax.vmap(jax.grad(lambda p, x: loss(p, x, "scan"), (0, 1)))(MANY, X))
    assert found[0]["kernel"].sharding.spec[0] == "members"
    calls = [text.count(f'custom_call_target="gruflax_{each}"') for each in ("forward", "backward")]
    assert calls == [1, 1]
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("check_vma", [True, False])
def test_members_in_shard_map_and_pmap(check_vma):
    mesh = jax.make_mesh((2,), ("members",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("members")
    mapped = jax.shard_map(
        jax.vmap(GRADIENT),
        mesh=mesh,
        in_specs=(spec, spec),
        out_specs=(spec, spec),
        check_vma=check_vma,
    )
    wanted = jax.vmap(jax.grad(lambda p, x: loss(p, x, "scan"), (0, 1)))(MANY, X)
    text = jax.jit(mapped).lower(MANY, X).as_text()
    assert text.count("@gruflax_forward") == text.count("@gruflax_backward") == 1
    close(jax.jit(mapped)(MANY, X), wanted)
    close(jax.pmap(GRADIENT)(MANY, X), wanted)
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), (MANY, X))
    found = jax.pmap(jax.vmap(GRADIENT))(*halves)
    close(jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:]), found), wanted)


def lifted(loop):
    return {
        "nn.vmap": nn.vmap(
            gruflax.GRU, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=4
        )(U, return_sequences=True, loop=loop),
        "nn.scan": nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )(loop),
    }


class Layer(nn.Module):
    loop: str

    @nn.compact
    def __call__(self, x, _):
        return gruflax.GRU(F, return_sequences=True, loop=self.loop)(x), None


@pytest.mark.parametrize("name", ["nn.vmap", "nn.scan"])
def test_lifted_layers(name):
    arguments = (X,) if name == "nn.vmap" else (X[0], None)
    variables = lifted("scan")[name].init(jax.random.key(0), *arguments)

    def total(loop, variables):
        outputs = jax.tree.leaves(lifted(loop)[name].apply(variables, *arguments))
        return sum((leaf**2).sum() for leaf in outputs)

    found, wanted = (
        jax.jit(jax.value_and_grad(total, 1), static_argnums=0)(loop, variables) for loop in LOOPS
    )
    close(found, wanted)


def test_nnx_vmap():
    def run(loop):
        make = lambda rngs: gruflax.nnx.GRU(F, U, loop=loop, rngs=rngs)  # noqa: E731
        layers = nnx.vmap(make)(nnx.Rngs(0).split(4))
        total = lambda layer, x: (layer(x) ** 2).sum()  # noqa: E731
        return nnx.vmap(nnx.value_and_grad(total))(layers, X)

    found, wanted = map(run, LOOPS)
    close(jax.tree.leaves(found), jax.tree.leaves(wanted))
