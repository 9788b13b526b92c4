"""Many devices: the same numbers, and no weights gathered inside the loop over time."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gruflax


LOOPS = ["scan", "chunked", *oracle.NATIVE]
B, T, F, U = 16, 12, 4, 8
RANDOM = np.random.default_rng(5)
PARAMS = gruflax.init_gru_params(
    jax.random.key(0), F, U, bias_initializer=jax.nn.initializers.normal(1.0)
)
X = RANDOM.normal(size=(B, T, F)).astype(np.float32)
MASK = RANDOM.random((B, T)) < 0.7


def loss(params, x, mask, loop):
    outputs, _ = gruflax.gru_sequence(params, x, mask=mask, loop=loop, chunk=5)
    return (outputs**2).mean()


def gradients(loop):
    return jax.jit(jax.value_and_grad(lambda *arguments: loss(*arguments, loop)))


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def check_kernel(loop, text):
    """The native loop's programs call the kernel, forward and backward, and no other's do."""
    calls = [text.count(f'custom_call_target="gruflax_{each}"') for each in ("forward", "backward")]
    assert calls == ([1, 1] if loop == "native" else [0, 0])


@pytest.mark.parametrize("loop", LOOPS)
def test_data_parallel_under_jit(mesh, loop):
    """Rows on 8 devices: one all-reduce of the gradients and nothing gathered."""
    wanted = gradients(loop)(PARAMS, X, MASK)
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    arguments = (
        jax.device_put(PARAMS, everywhere),
        jax.device_put(X, rows),
        jax.device_put(MASK, rows),
    )
    program = gradients(loop).lower(*arguments).compile()
    assert_close(program(*arguments), wanted)
    text = program.as_text()
    assert "all-reduce" in text
    if loop == "native":
        assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 1
    check_kernel(loop, text)
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_parts_of_a_batch_that_are_not_even(mesh, loop):
    """10 rows on 8 devices: what pads the last parts counts in no gradient."""
    rows = NamedSharding(mesh, P("data"))

    def total(params, x, mask):
        x, mask = jax.lax.with_sharding_constraint((x[:10], mask[:10]), rows)
        return loss(params, x, mask, loop)

    wanted = gradients(loop)(PARAMS, X[:10], MASK[:10])
    assert_close(jax.jit(jax.value_and_grad(total))(PARAMS, X, MASK), wanted)


@pytest.mark.parametrize("loop", LOOPS)
def test_shardings_in_types(loop):
    """A mesh of explicit axes, JAX's default: the zeros of the first state lie like the batch."""
    wanted = gradients(loop)(PARAMS, X, MASK)
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        x, mask = jax.device_put((X, MASK), P("data"))
        arguments = jax.device_put(PARAMS, P()), x, mask
        program = gradients(loop).lower(*arguments).compile()
        assert_close(program(*arguments), wanted)
        check_kernel(loop, program.as_text())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("other", [AxisType.Explicit, AxisType.Auto])
def test_weights_that_lie_on_no_mesh(loop, other):
    """Only the inputs lie on a mesh, which is not set and has an axis that is explicit."""
    wanted = gradients(loop)(PARAMS, X, MASK)
    devices = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit, other))
    x = jax.device_put(X, NamedSharding(devices, P("data")))
    assert_close(gradients(loop)(PARAMS, x, MASK), wanted)
    # Without jit too; gradients then need jax.set_mesh, as in all of JAX.
    assert_close(loss(PARAMS, x, MASK, loop), wanted[0])


@pytest.mark.parametrize("loop", LOOPS)
def test_vmap_over_the_axis_that_lies_over_devices(loop):
    def total(params, x):
        outputs, _ = jax.vmap(lambda x: gruflax.gru_sequence(params, x, loop=loop))(x)
        return (outputs**2).mean()

    wanted = jax.jit(jax.value_and_grad(total))(PARAMS, X)
    devices = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(X, NamedSharding(devices, P("data")))
    params = jax.device_put(PARAMS, NamedSharding(devices, P()))
    assert_close(jax.jit(jax.value_and_grad(total))(params, x), wanted)


@pytest.mark.parametrize("loop", LOOPS)
def test_arrays_that_lie_in_other_ways(loop):
    """What belongs to the inputs lies as the inputs do, and time and the gates' columns whole."""
    lengths, reset = np.arange(B) % (T + 1), ~MASK
    kinds = (AxisType.Explicit,) * 2
    devices = jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)

    def total(params, x, mask, lengths, reset):
        marks = {"mask": mask, "seq_lengths": lengths, "reset": reset, "loop": loop}
        return (gruflax.gru_sequence(params, x, **marks)[0] ** 2).mean()

    arguments = PARAMS, X, MASK, lengths, reset
    wanted = jax.jit(jax.value_and_grad(total))(*arguments)
    specs = P(None, "model"), P("data", "model"), P("model"), P("model"), P(None, "data")
    placed = [
        jax.device_put(each, NamedSharding(devices, spec))
        for each, spec in zip(arguments, specs, strict=True)
    ]
    assert_close(jax.jit(jax.value_and_grad(total))(*placed), wanted)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(mesh, loop, check_vma):
    wanted = gradients(loop)(PARAMS, X, MASK)

    def local(params, x, mask):
        # Parameters that vary over devices, so that their gradients stay local until the mean.
        if check_vma:
            params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
        value = jax.value_and_grad(lambda params: loss(params, x, mask, loop))(params)
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "data"), value)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=(P(), P()),
        check_vma=check_vma,
    )
    program = jax.jit(mapped).lower(PARAMS, X, MASK).compile()
    assert_close(program(PARAMS, X, MASK), wanted)
    check_kernel(loop, program.as_text())


@pytest.mark.parametrize("loop", LOOPS)
def test_shard_map_adds_up_gradients_of_shared_parameters(mesh, loop):
    wanted = gradients(loop)(PARAMS, X, MASK)[1]

    def local(params, x, mask):
        return jax.lax.pmean(loss(params, x, mask, loop), "data")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    assert_close(jax.jit(jax.grad(mapped))(PARAMS, X, MASK), wanted)


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_pmap(loop):
    wanted = gradients(loop)(PARAMS, X, MASK)

    def local(params, x, mask):
        value = jax.value_and_grad(lambda params: loss(params, x, mask, loop))(params)
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "data"), value)

    found = jax.pmap(local, "data", in_axes=(None, 0, 0))(
        PARAMS, X.reshape(8, 2, T, F), MASK.reshape(8, 2, T)
    )
    assert_close(jax.tree.map(lambda leaf: leaf[0], found), wanted)
    assert jnp.shape(found[0]) == (8,)


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_a_part_of_an_axis_of_the_mesh(mesh, loop):
    """Micro-batches of rows that lie on all devices: each lies on some of them."""

    def total(params, x):
        def add(sum_, x):
            outputs, _ = gruflax.gru_sequence(params, x, loop=loop)
            return sum_ + (outputs**2).mean(), None

        return jax.lax.scan(add, jnp.float32(0), x.reshape(2, B // 2, T, F))[0]

    wanted = jax.jit(jax.value_and_grad(total))(PARAMS, X)
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    assert_close(jax.jit(jax.value_and_grad(total))(PARAMS, x), wanted)


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_members_and_rows_on_the_same_axis_of_the_mesh(mesh, loop):
    many = jax.tree.map(lambda leaf: jnp.stack([leaf / size for size in range(1, 9)]), PARAMS)
    run = jax.jit(jax.vmap(jax.grad(lambda p, x: loss(p, x, MASK, loop)), (0, None)))
    placed = jax.device_put((many, X), NamedSharding(mesh, P("data")))
    assert_close(run(*placed), run(many, X))


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_shard_map_over_one_axis_of_two(loop):
    devices = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    for check_vma in (True, False):
        mapped = jax.shard_map(
            lambda params, x: gruflax.gru_sequence(params, x, loop=loop)[0],
            mesh=devices,
            axis_names={"data"},
            in_specs=(P(), P("data")),
            out_specs=P("data"),
            check_vma=check_vma,
        )
        assert_close(jax.jit(mapped)(PARAMS, X), gruflax.gru_sequence(PARAMS, X, loop=loop)[0])


@pytest.mark.parametrize("loop", oracle.NATIVE)
def test_members_lie_as_any_of_their_arrays_does(mesh, loop):
    """Parameters on every device, inputs of the members on one each: nothing is gathered."""
    many = jax.tree.map(lambda leaf: jnp.stack([leaf / size for size in range(1, 9)]), PARAMS)
    x = jnp.stack([X[:2] * size for size in range(8)])
    run = jax.jit(jax.vmap(jax.grad(lambda p, x: loss(p, x, MASK[:2], loop))))
    wanted = run(many, x)
    arguments = (
        jax.device_put(many, NamedSharding(mesh, P())),
        jax.device_put(x, NamedSharding(mesh, P("data"))),
    )
    program = run.lower(*arguments).compile()
    assert_close(program(*arguments), wanted)
    assert "all-gather" not in program.as_text()
