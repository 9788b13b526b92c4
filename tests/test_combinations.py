"""Forty combinations of features, each against the equations in NumPy, in float64.

What works alone may fail beside something else. A case is a line of words, each a feature: together
they make a function of arrays in gruflax, and the same one in NumPy. Compared are all that they
return, and the gradients by every array. NumPy's gradients are complex steps: with a tiny s, the
imaginary part of f(x + i s v) is s times the derivative of f along v.
"""

import dataclasses
from functools import partial

import cells
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

import gruflax
import gruflax.nnx as grunnx
from gruflax.compat import v1
from gruflax.functional.dropout import draw_zoneout


B, T, F, U = 3, 6, 2, 3
KEY = jax.random.key(3)
MESH = jax.make_mesh((B,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:B])

# A case is gru_sequence, its gates, or a layer: of linen, nnx or v1, an RNN, of two cells, with an
# own step, in both directions, merged in a way, a stack with one more below. The other words are
# arguments, flags that are True, and: NaN at masked steps, no batch axis or two, one dropout mask
# for all gates; windows, rows, members or shards to call it by, or tangents to compare.
CASES = """\
loop=scan reset_after=False mask seq_lengths initial_state zero_output_for_mask
loop=chunked chunk=4 use_bias=False go_backwards reset learn_initial_state=True initial_state
loop=native activation=relu recurrent_activation=hard_sigmoid time_major mask reset reset_state
loop=native float64 reset_after=False two_axes seq_lengths dropout_masks return_sequences=False
loop=chunked chunk=4 activation=centred mask remat go_backwards
unroll activation=softsign no_axis mask reset initial_state go_backwards zero_output_for_mask
loop=native remat seq_lengths reset dropout_masks one_mask return_sequences=False
loop=native recurrent_activation=v1 nan mask zero_output_for_mask return_sequences=False
loop=chunked chunk=4 float64 reset_after=False nan mask dropout_masks reset reset_state
zoneout=0.4 learn_initial_state=True reset activation=linear seq_lengths loop=chunked
training dropout=0.4 recurrent_dropout=0.4 time_major seq_lengths reset_after=False
loop=native bfloat16 mask reset initial_state
loop=scan float64 activation=softmax use_bias=False two_axes initial_state seq_lengths remat
training zoneout=0.4 recurrent_weight_dropout=0.4 mask reset initial_state go_backwards
loop=native rows mask seq_lengths reset initial_state
loop=chunked chunk=4 members learn_initial_state=True reset go_backwards mask
windows mask reset reset_state initial_state reset_after=False
loop=native tangents mask reset go_backwards dropout_masks initial_state
loop=native float64 tangents learn_initial_state=True seq_lengths reset use_bias=False time_major
loop=native shards seq_lengths reset reset_state initial_state reset_after=False
gates mask reset dropout_masks one_mask go_backwards reset_after=False initial_state
loop=native windows activation=relu reset initial_state use_bias=False mask
linen training dropout=0.4 recurrent_dropout=0.4 mask go_backwards zero_output_for_mask
linen training zoneout=0.4 recurrent_weight_dropout=0.4 mask reset return_sequences=False
linen RNN zoneout=0.4 learn_initial_state=True reset time_major seq_lengths initial_state
linen RNN own float64 nan mask reset learn_initial_state=True unroll reset_after=False
linen RNN cells own go_backwards mask seq_lengths zero_output_for_mask initial_state
linen concat learn_initial_state=True reset mask seq_lengths remat
linen RNN mul nan time_major mask reset activation=relu use_bias=False
nnx sum go_backwards return_sequences=False seq_lengths reset initial_state
nnx ave training dropout=0.4 recurrent_dropout=0.4 reset seq_lengths zero_output_for_mask
nnx RNN apart members mask reset initial_state recurrent_activation=hard_sigmoid
linen stack sum windows mask reset initial_state float64
nnx RNN stack own concat windows mask reset initial_state
linen stateful windows mask reset reset_state initial_state use_bias=False float64
linen RNN cells own stateful windows mask reset zero_output_for_mask initial_state reset_after=False
nnx RNN own stateful windows nan mask reset reset_state zero_output_for_mask initial_state
v1 linen stateful windows reset_after=False mask go_backwards initial_state
nnx rows training recurrent_weight_dropout=0.4 mask reset return_sequences=False remat
nnx RNN cells shards seq_lengths reset initial_state go_backwards
"""
VALUES = {"": True, "True": True, "False": False, "4": 4, "0.4": 0.4, "v1": v1.hard_sigmoid}
# An activation that mixes units, in NumPy and in JAX.
VALUES["centred"] = lambda a: a - a.mean(axis=-1, keepdims=True)
VALUES |= {} if oracle.NATIVE else {"native": "auto"}
FLAGS = ("go_backwards", "zero_output_for_mask", "time_major", "unroll", "remat", "stateful")
FIELDS = [field.name for field in dataclasses.fields(gruflax.GRUConfig)]
STEPS, MARKS = ("inputs", "mask", "reset"), ("mask", "seq_lengths", "reset")

# Gaps at the beginning and inside, and a row in which nothing counts.
MASK = np.array([[0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0]]) > 0
# At the first step and at the last one, at masked steps, and twice in a row.
RESET = np.array([[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]]) > 0
LENGTHS = np.array([5, 6, 0], np.int32)

FUNCTIONS = {
    "tanh": np.tanh, "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "linear": lambda a: a, "relu": lambda a: np.where(a.real > 0, a, 0),
    "hard_sigmoid": lambda a: np.where(abs(a.real) < 3, a / 6 + 0.5, a.real > 0),
    v1.hard_sigmoid: lambda a: np.where(abs(a.real) < 2.5, a / 5 + 0.5, a.real > 0),
    "softsign": lambda a: a / (1 + a * np.sign(a.real)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True),
}  # fmt: skip
MERGE = {
    "concat": lambda *both: np.concatenate(both, axis=-1), "sum": np.add, "mul": np.multiply,
    "ave": lambda one, two: (one + two) / 2, "apart": lambda *both: both,
}  # fmt: skip
SIDES = ("forward_layer", "backward_layer")


def gru(params, inputs, initial_state=None, mask=None, seq_lengths=None, reset=None,
        reset_state=None, dropout_masks=(None, None, None), zoneout_mask=None, zoneout=0.0,
        reset_after=True, activation="tanh", recurrent_activation="sigmoid", go_backwards=False,
        time_major=False, return_sequences=True, zero_output_for_mask=False, gates=False,
        **_):  # fmt: skip
    """A GRU over a sequence: outputs and the last state, or with `gates` what is inside."""
    x, mask, reset = (
        each if each is None or time_major else np.moveaxis(each, axis, 0)
        for each, axis in ((inputs, -2), (mask, -1), (reset, -1))
    )
    params = params.get("cell", params)
    drop_x, drop_h, drop_weights = dropout_masks
    dx, dh = ([1] * 3 if d is None else d if len(d) == 3 else [*d] * 3 for d in (drop_x, drop_h))
    kernel, recurrent = params["kernel"], params["recurrent_kernel"]
    recurrent = recurrent if drop_weights is None else recurrent * drop_weights
    bias = params.get("bias", np.zeros(kernel.shape[-1]))
    b, c = bias if bias.ndim == 2 else (bias, 0 * bias)
    parts = (np.split(each, 3, axis=-1) for each in (kernel, recurrent, b, c))
    (wz, wr, wn), (rz, rr, rn), (bz, br, bn), (cz, cr, cn) = parts
    own = np.zeros((*x.shape[1:-1], len(recurrent))) + params.get("initial_state", 0)
    states = (initial_state, reset_state)
    h, fresh = (own if each is None else np.reshape(each, own.shape) for each in states)
    s, g = (FUNCTIONS.get(each, each) for each in (recurrent_activation, activation))
    history = []
    for t in reversed(range(len(x))) if go_backwards else range(len(x)):
        valid = np.True_ if mask is None else mask[t]
        valid = (valid if seq_lengths is None else valid & (t < seq_lengths))[..., None]
        h = h if reset is None else np.where(reset[t][..., None], fresh, h)
        now = np.where(valid, x[t], 0)
        z = s(now * dx[0] @ wz + bz + h * dh[0] @ rz + cz)
        r = s(now * dx[1] @ wr + br + h * dh[1] @ rr + cr)
        inner = r * (h * dh[2] @ rn + cn) if reset_after else r * h * dh[2] @ rn
        n = g(now * dx[2] @ wn + bn + inner)
        z = z + zoneout * (1 - z)
        new = z * h + (1 - z) * n
        new = new if zoneout_mask is None else np.where(zoneout_mask[len(history)], new, h)
        h = np.where(valid, new, h)
        history.append((z, r, n, np.where(valid | (not zero_output_for_mask), h, 0)))
    found = [np.stack(each, 0 if time_major else -2) for each in zip(*history, strict=True)]
    return found if gates else (found[-1] if return_sequences else history[-1][-1], h)


def both_ways(params, inputs, initial_state=(None, None), reset=None, merge_mode="concat", of=gru,
              each=({}, {}), go_backwards=False, **options):  # fmt: skip
    """Two layers in both directions: outputs and both states; `each` are options of one of them."""
    axis, found = 0 if options.get("time_major") else 1, []
    sequences, ways = options.get("return_sequences", True), (go_backwards, not go_backwards)
    for side, state, own, back in zip(SIDES, initial_state, each, ways, strict=True):
        starts = reset
        if back and reset is not None:
            # Where t starts anew after t - 1, backwards it is t - 1 that does.
            later = np.moveaxis(reset, axis, 0)[1:]
            starts = np.moveaxis(np.concatenate([later, later[:1] & False]), 0, axis)
        how = {"reset": starts, "go_backwards": back, "zero_output_for_mask": sequences}
        found.append(of(params[side], inputs, state, **options | how | own))
    (outputs, state), (others, other) = found
    others = np.flip(others, axis) if sequences else others
    return MERGE[merge_mode](outputs, others), (state, other)


def tower(params, inputs, initial_state=(None, None), of=(gru, gru), zero_output_for_mask=False,
          return_sequences=True, **options):  # fmt: skip
    """Cells or layers on top of each other: outputs and the states of each."""
    params, states = params.get("cell", params), []
    for name, one, state in zip(sorted(params), of, initial_state, strict=True):
        last = {"zero_output_for_mask": zero_output_for_mask, "return_sequences": return_sequences}
        inputs = np.flip(inputs, 1) if states and options.get("go_backwards") else inputs
        inputs, state = one(params[name], inputs, state, **options, **(last if states else {}))
        states.append(state)
    return inputs, tuple(states)


def version_one(params, inputs, initial_state=None, **given):
    """v1's GRU, backwards: zeros before the first valid step."""
    outputs, state = gru(params, inputs, initial_state, **given)
    begun = np.logical_or.accumulate(given["mask"][:, ::-1], axis=1)
    return np.where(begun[..., None], outputs, 0), state


def gradient(function, given, cotangents):
    """The derivatives of all that a function returns, times cotangents and added up."""
    leaves, tree = jax.tree.flatten(given)
    found = [np.empty(leaf.shape) for leaf in leaves]
    for index, leaf in enumerate(leaves):
        for place in np.ndindex(leaf.shape):
            moved = leaf.astype(complex)
            moved[place] += 1e-30j
            results = function(tree.unflatten([*leaves[:index], moved, *leaves[index + 1 :]]))
            pairs = zip(cotangents, jax.tree.leaves(results), strict=True)
            found[index][place] = sum((c * each.imag).sum() for c, each in pairs) / 1e-30
    return tree.unflatten(found)


class OwnStep(grunnx.GRUCell):
    """An NNX cell with a step of its own, so that layers run it as they run any cell."""

    def __call__(self, carry, inputs, **options):
        return super().__call__(carry, inputs, **options)


def model_of(words, fields, options, rngs):
    """A model of layers: of NNX where there are `rngs`, else of linen."""
    room, own = (grunnx, OwnStep) if rngs else (gruflax, cells.OwnStep)
    fields, options = fields | rngs, options | {"return_state": True}

    def layer(features):
        lower, upper = ((features, U), (U, U)) if rngs else ((U,), (U,))
        if "RNN" not in words:
            return (v1 if "v1" in words else room).GRU(*lower, **fields, **options)
        cell = (own if "own" in words else room.GRUCell)(*lower, **fields)
        cell = [cell, room.GRUCell(*upper, **fields)] if "cells" in words else cell
        return room.RNN(cell, **options)

    model = layer(U if "stack" in words else F)
    for mode in set(words) & set(MERGE):
        model = room.Bidirectional(model, merge_mode=None if mode == "apart" else mode, **rngs)
    return room.Stack([layer(F), model]) if "stack" in words else model


def call_model(words, fields, options, params, inputs, initial_state=None, **others):
    """Calls it: what it returns, or of stateful layers the outputs and the state."""
    streams = {"rngs": nnx.Rngs(0)} if "nnx" in words else {}
    model, given = model_of(words, fields, options, streams), {"params": params}
    stateful, training = "stateful" in words, "training" in words
    given |= {"recurrent_state": {"h": initial_state}} if stateful else {}
    others |= {} if stateful else {"initial_state": initial_state}
    if streams:
        grunnx.from_linen_variables(model, given)
        found = model(inputs, **others, deterministic=not training, rngs=KEY)
        return (found[0], model.h.get_value()) if stateful else found
    others |= {"training": training, "mutable": ["recurrent_state"]}
    found, kept = model.apply(given, inputs, **others)
    return (found[0], kept["recurrent_state"]["h"]) if stateful else found


# Ways to call it.


def plain(call, given):
    return call(**given)


def scanned(call, given):
    """Three windows, each with the states of the last one: a scan of checkpointed calls."""

    @jax.checkpoint
    def window(state, now):
        outputs, state = call(**given | now | {"initial_state": state})
        return state, outputs

    now = {name: each for name, each in given.items() if name in STEPS}
    now = jax.tree.map(lambda each: jnp.stack(jnp.split(each, 3, axis=1)), now)
    state, outputs = lax.scan(window, given["initial_state"], now)
    return jnp.concatenate(list(outputs), axis=1), state


def windows(call, given):
    state, found = given["initial_state"], []
    for part in np.split(np.arange(T), 3):
        now = {name: each[:, part] for name, each in given.items() if name in STEPS}
        outputs, state = call(**given | now | {"initial_state": state})
        found.append(outputs)
    return np.concatenate(found, axis=1), state


def axes(given, params, others):
    return ({name: params if name == "params" else others for name in given},)


def one_by_one(call, given):
    members = [jax.tree.map(lambda a, i=i: a[i], given["params"]) for i in range(2)]
    found = (call(**given | {"params": each}) for each in members)
    return jax.tree.map(lambda *each: np.stack(each), *found)


def along(given):
    """The arrays to differentiate by, and a direction."""
    floats = {name: each for name, each in given.items() if name not in MARKS}
    random = np.random.default_rng(5)
    draw = lambda each: random.normal(size=each.shape).astype(each.dtype)  # noqa: E731
    return floats, jax.tree.map(draw, floats)


def forward_mode(call, given):
    floats, v = along(given)
    return jax.jvp(lambda floats: call(**given | floats), (floats,), (v,))[1]


def complex_step(call, given):
    moved = jax.tree.map(lambda each, v: each + 1e-30j * v, *along(given))
    return jax.tree.map(lambda each: each.imag / 1e-30, call(**given | moved))


WAYS = {
    "rows": (lambda call, a: jax.vmap(partial(plain, call), axes(a, None, 0))(a), plain),
    "members": (lambda call, a: jax.vmap(partial(plain, call), axes(a, 0, None))(a), one_by_one),
    "shards": (lambda call, a: jax.shard_map(partial(plain, call), mesh=MESH,
        in_specs=axes(a, P(), P("rows")), out_specs=P("rows"))(a), plain),
    "windows": (scanned, windows), "tangents": (forward_mode, complex_step),
}  # fmt: skip


def arrays_of(words, shapes, random):
    """All arrays of a case that its words name, and weights."""
    spread = {"no_axis": lambda each: each[0], "two_axes": lambda a: np.stack([a, a[::-1]], axis=1)}
    spread = next((spread[word] for word in words if word in spread), lambda each: each)
    x, h, fresh = (random.normal(size=size) for size in ((B, T, F), (B, U), (B, U)))
    x, h, fresh, mask, reset, lengths = map(spread, (x, h, fresh, MASK, RESET, LENGTHS))
    x = np.where(mask[..., None], x, np.nan) if "nan" in words else x
    if "time_major" in words:
        x, mask, reset = x.swapaxes(0, 1), mask.T, reset.T
    states = (h, fresh) if set(words) & {"cells", *MERGE} else h
    states = ((h,), states) if "stack" in words else states
    gates = 1 if "one_mask" in words else 3
    drops = (random.random((gates, *h.shape[:-1], size)) < 0.7 for size in (F, U))
    drops = gruflax.DropoutMasks(*(each / 0.7 for each in drops))
    draw = lambda: jax.tree.map(lambda a: 0.6 * random.normal(size=a.shape), shapes)  # noqa: E731
    members = (draw(), draw()) if "members" in words else ()
    params = jax.tree.map(lambda *each: np.stack(each), *members) if members else draw()
    given = {"initial_state": states, "reset_state": fresh, "dropout_masks": drops}
    given |= {"mask": mask, "seq_lengths": lengths, "reset": reset}
    given = {name: each for name, each in given.items() if name in words}
    return {"params": params, "inputs": x, **given}


def drawn(words, config):
    """What keys drop of a layer, or of both of two, as options of the reference."""
    for key in jax.random.split(KEY) if set(words) & set(MERGE) else [KEY]:
        masks = gruflax.draw_dropout_masks(key, (B,), F, U, config)
        zoneout_mask, _ = draw_zoneout(key, config, (T, B, U))
        masks, zoneout_mask = jax.tree.map(np.asarray, (masks, zoneout_mask))
        yield {"dropout_masks": masks, "zoneout_mask": zoneout_mask, "zoneout": 0}


def build(name):
    """A case: a function in gruflax, the same in NumPy, and the arrays that both take."""
    words = name.split()
    known = (word.partition("=")[::2] for word in words if "=" in word or word in FLAGS)
    options = {"return_sequences": True} | {each: VALUES.get(value, value) for each, value in known}
    options |= {"seed": 3} if {"linen", "training"} <= set(words) else {}
    options |= {"recurrent_activation": v1.hard_sigmoid} if "v1" in words else {}
    fields = {name: options.pop(name) for name in FIELDS if name in options}
    config, key = gruflax.GRUConfig(**fields), KEY if "training" in words else None
    each = [{}, {}] if key is None else list(drawn(words, config))
    call = partial(gruflax.gru_sequence, config=config, rng=key, **options)
    if "gates" in words:
        call = partial(gruflax.gate_activations, config=config, go_backwards=True)
    if {"linen", "nnx"} & set(words):
        call = partial(call_model, words, fields, options)
    model = model_of(words, fields, {"return_sequences": True}, {})
    shapes = jax.eval_shape(model.init, KEY, np.zeros((B, T, F), np.float32))["params"]
    one = tower if "cells" in words else version_one if "v1" in words else gru
    wanted = partial(one, **fields | options | each[0], gates="gates" in words)
    for mode in set(words) & set(MERGE):
        wanted = partial(both_ways, of=one, merge_mode=mode, each=each, **fields, **options)
    lower = partial(one, **fields, **options)
    wanted = partial(tower, of=(lower, wanted)) if "stack" in words else wanted
    way, wanted_way = next((WAYS[word] for word in words if word in WAYS), (plain, plain))
    given = arrays_of(words, shapes, np.random.default_rng([*name.encode()]))
    return partial(way, call), partial(wanted_way, wanted), given


TOLERANCES = {"float64": 1e-11, "float32": 5e-6, "bfloat16": 1 / 128}


@pytest.mark.parametrize("name", CASES.splitlines())
def test_a_combination_is_what_the_equations_say(name):
    dtype = np.dtype("float64" if "float64" in name else "float32")
    with jax.enable_x64(dtype == np.float64):
        run, wanted, given = build(name)
        marks = {mark: given.pop(mark) for mark in MARKS if mark in given}
        given = jax.tree.map(lambda each: jnp.asarray(each, dtype), given)
        if "bfloat16" in name:
            given["params"] = jax.tree.map(jnp.bfloat16, given["params"])
        exact = jax.tree.map(lambda each: np.asarray(each).astype(np.float64), given)
        results = jax.tree.leaves(wanted(exact | marks))
        factors = [np.cos(np.arange(each.size)).reshape(each.shape) for each in results]

        @jax.jit
        def run_and_differentiate(given):
            found, backward = jax.vjp(lambda given: jax.tree.leaves(run(given | marks)), given)
            return found, backward([jnp.asarray(each, dtype) for each in factors])[0]

        found, gradients = run_and_differentiate(given)
    assert {each.dtype for each in found} == {dtype}
    if "tangents" not in name:
        found += jax.tree.leaves(gradients)
        results += jax.tree.leaves(gradient(lambda given: wanted(given | marks), exact, factors))
    for one, other in zip(found, results, strict=True):
        assert one.shape == other.shape
        error = abs(np.asarray(one).astype(np.float64) - other).max()
        assert error <= TOLERANCES[str(one.dtype)] * max(1, abs(other).max())
