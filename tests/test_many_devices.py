"""Many devices: training steps of whole models give the numbers of one device.

The model is stateful and masked; each way takes two steps, the second from the first one's state.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gruflax
import gruflax.nnx


# No product of these is another one: shapes in the compiled programs say what they are.
B, T, F, U = 16, 10, 6, 14
RANDOM = np.random.default_rng(5)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)

# Weights in shards of whole rows, or of columns.
ROWS = (("features", "model"), ("units", "model"), ("gates", None))
COLUMNS = (("features", None), ("units", None), ("gates", "model"))


class Batch(NamedTuple):
    x: Any
    mask: Any
    y: Any


def draw_batch():
    mask = RANDOM.random((B, T)) < 0.7
    mask[3] = False
    x, y = RANDOM.normal(size=(B, T, F)), RANDOM.normal(size=(B, 1))
    return Batch(x.astype(np.float32), mask, y.astype(np.float32))


BATCHES = [draw_batch() for _ in range(2)]


class Model(nn.Module):
    partitioned: bool = False
    loop: str = "auto"

    @nn.compact
    def __call__(self, x, mask):
        gru = gruflax.GRU(
            U,
            bias_initializer="normal",
            stateful=True,
            partitioned=self.partitioned,
            loop=self.loop,
            name="gru",
        )
        return nn.Dense(1)(gru(x, mask=mask))


class Training(NamedTuple):
    params: Any
    optimizer: Any
    memory: Any


def create(model):
    variables = model.init(jax.random.key(0), BATCHES[0].x, BATCHES[0].mask)
    params = variables["params"]
    return Training(params, OPTIMIZER.init(params), variables["recurrent_state"])


def take_step(training, batch, average=lambda tree: tree, whole=lambda params: params, loop="auto"):
    """Takes a training step; `average` goes over devices, `whole` puts weights together."""

    def loss(params):
        variables = {"params": whole(params), "recurrent_state": training.memory}
        outputs, new = Model(loop=loop).apply(
            variables, batch.x, batch.mask, mutable=["recurrent_state"]
        )
        return ((outputs - batch.y) ** 2).mean(), new["recurrent_state"]

    (_, memory), gradients = jax.value_and_grad(loss, has_aux=True)(training.params)
    updates, optimizer = OPTIMIZER.update(average(gradients), training.optimizer)
    return Training(optax.apply_updates(training.params, updates), optimizer, memory)


def run(program, training, place=lambda batch: batch):
    for batch in BATCHES:
        training = program(training, place(batch))
    return training


@pytest.fixture(scope="module")
def start():
    return jax.jit(create, static_argnums=0)(Model())


@pytest.fixture(scope="module")
def wanted(start):
    result = run(jax.jit(take_step), start)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), result, start)
    assert min(jax.tree.leaves(changes)) > 1e-3
    return result


@pytest.fixture(scope="module")
def data_mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def assert_close(found, wanted):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        nn.unbox(found),
        nn.unbox(wanted),
    )


def collectives(text):
    """Finds a compiled program's collectives: shapes by kind, in loops and outside of them."""
    computations, name = {}, ""
    for line in text.splitlines():
        begins = re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line)
        if begins:
            name = begins[1]
        computations.setdefault(name, []).append(line)
    callee = r"(?:body|condition|to_apply|calls)=%?([\w.-]+)"
    inside, found = set(), re.findall(r" while\(.*?body=%?([\w.-]+)", text)
    while found:
        name = found.pop()
        if name not in inside:
            inside.add(name)
            found += re.findall(callee, "\n".join(computations[name]))
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    result = {True: [], False: []}
    for name, lines in computations.items():
        for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", "\n".join(lines)):
            for dims in re.findall(r"\w+\[([\d,]*)\]", shapes):
                shape = tuple(int(size) for size in dims.split(",") if size not in ("", "1"))
                result[name in inside].append((kind, shape))
    return result[True], result[False]


def gathered_weights(collectives):
    """Picks the all-gathers of a whole kernel, whichever way it lies."""
    kernels = [sorted(shape) for rows in (F, U) for shape in ((rows, 3 * U), (rows, 3, U))]
    return [
        shape for kind, shape in collectives if kind == "all-gather" and sorted(shape) in kernels
    ]


def test_data_parallel_under_jit(start, wanted, data_mesh):
    """Rows of the batch and of the stored state on 8 devices: nothing moves inside the loop."""
    rows, everywhere = NamedSharding(data_mesh, P("data")), NamedSharding(data_mesh, P())
    shardings = Training(everywhere, everywhere, rows)
    program = jax.jit(take_step, in_shardings=(shardings, rows), out_shardings=shardings)
    found = run(program, start)
    assert_close(found, wanted)
    assert found.memory["gru"]["h"].sharding.spec == P("data")
    inside, outside = collectives(program.lower(start, BATCHES[0]).compile().as_text())
    assert not inside
    assert {kind for kind, _ in outside} == {"all-reduce"}


def test_shard_map(start, wanted, data_mesh):
    def local(training, batch):
        # shard_map itself adds up the gradients of what all devices share.
        return take_step(training, batch, lambda tree: jax.tree.map(lambda leaf: leaf / 8, tree))

    specs = Training(P(), P(), P("data"))
    mapped = jax.shard_map(local, mesh=data_mesh, in_specs=(specs, P("data")), out_specs=specs)
    assert_close(run(jax.jit(mapped), start), wanted)


def test_pmap(start, wanted):
    def local(training, batch):
        return take_step(training, batch, average=lambda tree: jax.lax.pmean(tree, "data"))

    def split(tree):
        return jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), tree)

    axes = Training(None, None, 0)
    program = jax.pmap(local, "data", in_axes=(axes, 0), out_axes=axes)
    found = run(program, start._replace(memory=split(start.memory)), split)
    assert_close(found, wanted._replace(memory=split(wanted.memory)))


@pytest.mark.parametrize(
    ("rules", "whole"), [(ROWS, True), (ROWS, False), (COLUMNS, False)], ids=str
)
def test_model_axis(wanted, mesh, rules, whole):
    """Weights and momenta in shards, by the names that the parameters carry.

    Put together before the loop (`whole`), nothing moves inside it and all devices share the batch;
    left in shards, states and gates move, and no weights: the chunked loop, for the native one puts
    weights together.
    """
    make = jax.jit(create, static_argnums=0)
    abstract = jax.eval_shape(make, Model(partitioned=True))
    rows = NamedSharding(mesh, P(("data", "model") if whole else "data"))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(abstract), mesh, rules)
    shardings = shardings._replace(memory=jax.tree.map(lambda _: rows, shardings.memory))
    make = jax.jit(create, static_argnums=0, out_shardings=shardings)
    start = make(Model(partitioned=True))
    kernel = start.params["gru"]["recurrent_kernel"].value
    shard = (U // 2, 3 * U) if rules == ROWS else (U, 3 * U // 2)
    assert kernel.addressable_shards[0].data.shape == shard
    assert start.optimizer[0].trace["gru"]["recurrent_kernel"].value.sharding == kernel.sharding

    loop = "auto" if whole else "chunked"

    def together(params):
        everywhere = NamedSharding(mesh, P())
        return jax.lax.with_sharding_constraint(params, everywhere) if whole else params

    program = jax.jit(
        lambda training, batch: take_step(training, batch, whole=together, loop=loop),
        in_shardings=(shardings, rows),
        out_shardings=shardings,
    )
    found = run(program, start)
    assert_close(found, wanted)
    assert found.params["gru"]["recurrent_kernel"].value.sharding == kernel.sharding
    inside, outside = collectives(program.lower(start, BATCHES[0]).compile().as_text())
    assert not gathered_weights(inside)
    if whole:
        assert not inside
        assert len(gathered_weights(outside)) == 2
    else:
        # At most the projections of the rows of one device.
        assert inside and max(np.prod(shape) for _, shape in inside) <= B // 4 * 3 * U


def test_gathered_weights_are_found(mesh):
    """The check of the compiled programs can fail: here is a loop that gathers a weight."""
    in_shards, everywhere = NamedSharding(mesh, P("model")), NamedSharding(mesh, P())

    def body(kernel, _):
        whole = jax.lax.with_sharding_constraint(kernel, everywhere)
        kernel = kernel * jnp.tanh(whole @ whole.T @ whole)[: kernel.shape[0]]
        return jax.lax.with_sharding_constraint(kernel, in_shards), None

    kernel = jax.device_put(jnp.ones((U, 3 * U)), in_shards)
    program = jax.jit(lambda kernel: jax.lax.scan(body, kernel, None, length=3)[0])
    inside, _ = collectives(program.lower(kernel).compile().as_text())
    assert gathered_weights(inside)


class Regressor(nnx.Module):
    def __init__(self, partitioned):
        rngs = nnx.Rngs(0)
        self.gru = gruflax.nnx.GRU(
            F, U, bias_initializer="normal", stateful=True, partitioned=partitioned, rngs=rngs
        )
        self.gru.init_state((B, T, F))
        self.dense = nnx.Linear(U, 1, rngs=rngs)

    def __call__(self, x, mask):
        return self.dense(self.gru(x, mask=mask))


@nnx.jit
def take_nnx_step(model, optimizer, batch):
    def loss(model):
        return ((model(batch.x, batch.mask) - batch.y) ** 2).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def trained(model, place=lambda batch: batch):
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)
    for batch in BATCHES:
        take_nnx_step(model, optimizer, place(batch))
    return nnx.to_pure_dict(nnx.state(model))


def test_nnx_module_over_both_axes(mesh):
    wanted = trained(Regressor(partitioned=False))
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh), nnx.logical_axis_rules(ROWS):
        model = Regressor(partitioned=True)
        model.gru.h.set_value(jax.device_put(model.gru.h.get_value(), rows))
        found = trained(model, lambda batch: jax.device_put(batch, rows))
    assert_close(found, wanted)
    for name, rows_in_a_shard in (("kernel", F // 2), ("recurrent_kernel", U // 2)):
        shards = found["gru"][name].addressable_shards
        assert {shard.data.shape for shard in shards} == {(rows_in_a_shard, 3 * U)}
