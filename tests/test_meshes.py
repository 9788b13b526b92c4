"""A batch laid over devices in every way, of everything that a GRU does: the numbers of one device.

The whole matrix takes half an hour. By default a part of it is run that has every value of every
axis, and each model on two of the meshes. GRUFLAX_MATRIX=whole runs all of it.
"""

import functools
import itertools
import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gruflax
import gruflax.nnx as grunnx


B, T, F, U = 8, 3, 2, 3
DEVICES = 4
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(B, T, F)).astype(np.float32)
MASK = RANDOM.random((B, T)) < 0.7
LENGTHS = RANDOM.integers(0, T + 1, B)
RESET = RANDOM.random((B, T)) < 0.4
KEY = jax.random.key(7)

MESHES = ["explicit", "explicit, set", "auto", "shard_map", "shard_map, unchecked", "pmap"]
CONVENTIONS = {
    "after": {},
    "before": {"reset_after": False},
    "no bias": {"use_bias": False},
}
# Fields of a GRU, and arguments of its call.
FEATURES = {
    "plain": ({}, {}),
    "mask": ({}, {"mask": MASK}),
    "lengths": ({}, {"seq_lengths": LENGTHS}),
    "reset": ({}, {"reset": RESET}),
    "dropout": ({"dropout": 0.4}, {"training": True}),
    "dropout for each gate": ({"dropout": 0.4, "implementation": 1}, {"training": True}),
    "recurrent dropout": ({"recurrent_dropout": 0.4}, {"training": True}),
    "weight dropout": ({"recurrent_weight_dropout": 0.4}, {"training": True}),
    "zoneout": ({"zoneout": 0.4}, {"training": True}),
    "learned state": ({"learn_initial_state": True}, {"reset": RESET}),
    "stateful": ({"stateful": True}, {"mask": MASK}),
}
LOOPS = ["scan", "chunked", "native"]
KINDS = [
    *LOOPS,
    *("GRU", "RNN(GRUCell)", "RNN(LSTMCell)", "Bidirectional", "Stack"),
    *("nnx.GRU", "nnx.RNN(GRUCell)", "nnx.RNN(LSTMCell)", "nnx.Bidirectional", "nnx.Stack"),
]


def of_sequence(loop, fields, layer):
    """`(params, run(params, x, **marks) -> outputs)` of `gru_sequence`."""
    training = fields.pop("training", False)
    config = gruflax.GRUConfig(**fields)
    params = gruflax.init_gru_params(KEY, F, U, config)

    def run(params, x, **marks):
        state = marks.pop("state", None)
        key = KEY if training else None
        outputs = gruflax.gru_sequence(
            params, x, config=config, rng=key, loop=loop, initial_state=state, **marks
        )
        return outputs

    return params, run


def of_linen(kind, fields, layer):
    """The same of a linen model."""
    training = fields.pop("training", False)
    options = {"return_sequences": True, "return_state": True}
    cells = {"GRUCell": lambda: gruflax.GRUCell(U, **fields), "LSTMCell": lambda: nn.LSTMCell(U)}

    def gru():
        return gruflax.GRU(U, **fields, **options, **layer)

    made = {
        "GRU": gru,
        "Bidirectional": lambda: gruflax.Bidirectional(gru()),
        "Stack": lambda: gruflax.Stack([gru(), gru()]),
    }
    cell = cells.get(kind.removeprefix("RNN(").removesuffix(")"))
    model = gruflax.RNN(cell(), **options, **layer) if cell else made[kind]()
    params = model.init(KEY, X)["params"]

    def run(params, x, **marks):
        state = marks.pop("state", None)
        stored = {} if state is None else {"recurrent_state": state}
        outputs, _ = model.apply(
            {"params": params, **stored},
            x,
            **marks,
            training=training,
            rngs={"dropout": KEY},
            mutable=["recurrent_state"],
        )
        return outputs

    return params, run


def of_nnx(kind, fields, layer):
    """The same of an NNX model."""
    deterministic = not fields.pop("training", False)
    options = {"return_sequences": True, "return_state": True, **layer}
    streams = nnx.Rngs(3)
    cells = {
        "GRUCell": lambda: grunnx.GRUCell(F, U, **fields, rngs=streams),
        "LSTMCell": lambda: nnx.LSTMCell(F, U, rngs=streams),
    }

    def gru(features=F):
        return grunnx.GRU(features, U, **fields, **options, rngs=streams)

    made = {
        "GRU": gru,
        "Bidirectional": lambda: grunnx.Bidirectional(gru(), rngs=streams),
        "Stack": lambda: grunnx.Stack([gru(), gru(U)]),
    }
    cell = cells.get(kind.removeprefix("RNN(").removesuffix(")"))
    model = grunnx.RNN(cell(), **options) if cell else made[kind]()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def run(params, x, **marks):
        model = nnx.merge(graph, params, rest, copy=True)
        marks.pop("state", None)
        return model(x, **marks, deterministic=deterministic, rngs=KEY)

    return params, run


def model_of(kind, convention, feature):
    """`(params, loss(params, x, marks) -> (loss, outputs), marks)`, of one case of the matrix."""
    fields, marks = (dict(each) for each in FEATURES[feature])
    training = {"training": marks.pop("training")} if "training" in marks else {}
    layer = {"stateful": True} if fields.pop("stateful", False) else {}
    make = of_sequence if kind in LOOPS else of_nnx if kind.startswith("nnx.") else of_linen
    all_fields = {**CONVENTIONS[convention], **fields, **training}
    if make is of_nnx:
        all_fields.setdefault("bias_initializer", "normal")
    params, run = make(kind.removeprefix("nnx."), all_fields, layer)

    def loss(params, x, marks):
        results = jax.tree.leaves(run(params, x, **marks))
        return sum((each**2).mean() for each in results), results[0]

    return params, loss, marks


def laid_out(mesh, x, marks, gradient):
    """Runs on devices of a mesh whose shardings are types, or are the compiler's."""
    kind = AxisType.Auto if mesh == "auto" else AxisType.Explicit
    devices = jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))
    rows = NamedSharding(devices, P("data"))

    def run(params):
        given = jax.device_put((params, *()), NamedSharding(devices, P()))[0]
        return jax.jit(gradient)(given, *jax.device_put((x, marks), rows))

    if mesh != "explicit, set":
        return run

    def under_mesh(params):
        with jax.set_mesh(devices):
            return run(params)

    return under_mesh


def mapped(mesh, x, marks, gradient):
    """Runs on parts of the batch, each by itself, and averages."""

    def local(params, x, marks):
        found = gradient(params, x, marks)
        (loss, outputs), gradients = found
        average = functools.partial(jax.lax.pmean, axis_name="data")
        return (average(loss), outputs), jax.tree.map(average, gradients)

    if mesh == "pmap":
        parts = jax.tree.map(
            lambda each: each.reshape(DEVICES, B // DEVICES, *each.shape[1:]), (x, marks)
        )
        program = jax.pmap(local, "data", devices=jax.devices()[:DEVICES])

        def run(params):
            everywhere = jax.tree.map(lambda each: jnp.stack([each] * DEVICES), params)
            (loss, outputs), gradients = program(everywhere, *parts)
            (loss, gradients) = jax.tree.map(lambda each: each[0], (loss, gradients))
            return (loss, outputs.reshape(B, *outputs.shape[2:])), gradients

        return run
    checked = mesh == "shard_map"

    def varying(params, x, marks):
        if checked:
            params = jax.tree.map(lambda each: jax.lax.pcast(each, "data", to="varying"), params)
        return local(params, x, marks)

    devices = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    program = jax.shard_map(
        varying,
        mesh=devices,
        in_specs=(P(), P("data"), P("data")),
        out_specs=((P(), P("data")), P()),
        check_vma=checked,
    )
    return lambda params: jax.jit(program)(params, x, marks)


def one_device(mesh, x, marks, gradient):
    """Runs on one device, part by part where parts draw their own masks."""
    program = jax.jit(gradient)
    if mesh in ("explicit", "explicit, set", "auto"):
        return lambda params: program(params, x, marks)

    def run(params):
        size = B // DEVICES
        slices = [slice(first, first + size) for first in range(0, B, size)]
        found = [
            program(params, *jax.tree.map(lambda each, part=part: each[part], (x, marks)))
            for part in slices
        ]
        losses, outputs = zip(*(value for value, _ in found), strict=True)
        gradients = jax.tree.map(lambda *each: sum(each) / DEVICES, *(each for _, each in found))
        return (sum(losses) / DEVICES, jnp.concatenate(outputs)), gradients

    return run


WHOLE = [
    (mesh, kind, convention, feature)
    for mesh, kind, convention, feature in itertools.product(MESHES, KINDS, CONVENTIONS, FEATURES)
    # Other libraries' cells have one convention and no dropout, and functions keep no state.
    if not (
        "LSTM" in kind and (convention != "after" or FEATURES[feature][0].keys() - {"stateful"})
    )
    and not (kind in LOOPS and feature == "stateful")
    and not (kind == "native" and feature == "zoneout")
]


def drawn_cases():
    """Draws cases such that each model has two meshes, and all other values come in turn."""
    draw, cases, seen = random.Random(11), [], set()
    for index, kind in enumerate(KINDS * 2):
        mesh = MESHES[(index + index // len(KINDS)) % len(MESHES)]
        fitting = [case for case in WHOLE if case[:2] == (mesh, kind)]
        draw.shuffle(fitting)
        # What was not drawn for a while comes first.
        chosen = min(fitting, key=lambda case: (case[3] in seen, (mesh, case[2]) in seen))
        cases.append(chosen)
        seen |= {chosen[3], (mesh, chosen[2])}
        if seen >= set(FEATURES):
            seen -= set(FEATURES)
    return cases


@pytest.mark.parametrize(
    "case",
    WHOLE if os.environ.get("GRUFLAX_MATRIX") == "whole" else drawn_cases(),
    ids=lambda case: " - ".join(case),
)
def test_numbers_of_one_device(case):
    mesh, kind, convention, feature = case
    params, loss, marks = model_of(kind, convention, feature)
    gradient = jax.value_and_grad(loss, has_aux=True)
    wanted = one_device(mesh, X, marks, gradient)(params)
    lay = laid_out if mesh in ("explicit", "explicit, set", "auto") else mapped
    found = lay(mesh, X, marks, gradient)(params)
    # An explicit mesh is a type: what is compared is what the numbers are.
    wanted, found = jax.tree.map(np.asarray, (wanted, found))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)
