"""Every installed contestant does the same work, and ONNX is gruflax to the last gate."""

import functools

import jax
import numpy as np
import pytest

from gruflax.bench.case import VALUE_AND_GRAD, Case, environment
from gruflax.bench.contestants import (
    FLOAT32,
    JAX_PEER,
    LOOP_PEERS,
    NO_DROPOUT,
    Inputs,
    Peer,
    gruflax_params,
    jax_program,
    mean_square,
)
from gruflax.bench.libraries import LIBRARIES
from gruflax.bench.measure import disagreement
from gruflax.functional import GRUConfig, gru_sequence
from gruflax.functional.loops.choice import LOOPS


B, T, F, U = 3, 7, 4, 5
JAX_PEERS = [peer for peer in LIBRARIES.values() if peer.kind == JAX_PEER]
# The biases of Keras, gruflax and torch; of Flax and Equinox; of NNX and Haiku.
BIASES = {"keras": 6, "torch": 6, "flax.linen": 4, "equinox": 4, "flax.nnx": 3, "haiku": 3}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Lets the other libraries promote as they do."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def program_of(peer, case, mode):
    """Builds, or skips where the library is missing."""
    for module in peer.package.removeprefix("dm-").split():
        pytest.importorskip(module)
    assert peer.obstacle(case, mode) is None
    return peer.make(case, mode)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_gives_outputs_and_gradients_of_one_size(name, masked):
    peer = LIBRARIES[name]
    case = Case(B, T, F, U, masked=masked)
    if masked and "masks" in peer.lacks:
        assert peer.obstacle(case, "forward") in ("has no masks", peer.obstacle(case, "step"))
        return
    program = program_of(peer, case, "forward")
    (outputs,) = program.arrays(program.run())
    assert outputs.shape == (B, T, U)
    assert np.isfinite(outputs).all() and np.abs(outputs).max() > 0.05
    if VALUE_AND_GRAD in peer.lacks:
        return
    program = program_of(peer, case, VALUE_AND_GRAD)
    loss, *gradients = program.arrays(program.run())
    weights = 3 * U * (F + U) + BIASES[name] * U
    assert sum(gradient.size for gradient in gradients) == weights + B * T * F
    # It can be run again.
    again = program.arrays(program.run())
    jax.tree.map(np.testing.assert_array_equal, again, [loss, *gradients])
    assert all(np.isfinite(gradient).all() and gradient.any() for gradient in gradients)
    valid = outputs[case.mask()] if masked else outputs
    np.testing.assert_allclose(loss, np.square(valid).mean(), rtol=1e-5)
    if name != "torch":
        assert program.compile_seconds > 0 and program.temp_bytes > 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("peer", LIBRARIES.values(), ids=lambda peer: peer.name)
def test_every_library_computes_what_gruflax_does_with_the_same_parameters(peer, masked):
    case = Case(B, T, F, U, masked=masked)
    if masked and "masks" in peer.lacks:
        return
    program = program_of(peer, case, "forward")
    params, reset_after = gruflax_params(case), peer.name != "haiku"
    if peer.name == "flax.nnx":
        params["bias"] = params["bias"].at[1, 2 * U :].set(0)
    elif peer.name == "haiku":
        params["bias"] = params["bias"][0]
    config = GRUConfig(reset_after=reset_after)
    expected = gru_sequence(params, case.inputs(), config=config, mask=case.mask())[0]
    found = program.arrays(program.run())
    assert disagreement(case, "forward", "jax", [np.asarray(expected)], found) < 1e-5
    plain = LOOP_PEERS[0].make(case, "forward").run()
    # What is not compared has other numbers.
    assert peer.same == np.allclose(expected, plain, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_loops_agree_with_each_other_and_with_the_public_function(masked):
    assert [peer.name for peer in LOOP_PEERS] == [f"gruflax ({loop})" for loop in LOOPS]
    case = Case(B, T, F, U, masked=masked)
    params = gruflax_params(case)
    expected, _ = gru_sequence(params, case.inputs(), mask=case.mask(), loop="scan")
    for peer in LOOP_PEERS[1:4]:
        np.testing.assert_allclose(peer.make(case, "forward").run(), expected, atol=1e-6)
        loss, (gradients, by_inputs) = peer.make(case, VALUE_AND_GRAD).run()
        assert by_inputs.shape == (B, T, F)
        np.testing.assert_allclose(loss, mean_square(expected, case.mask()), rtol=1e-5)
        assert jax.tree.map(np.shape, gradients) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize("peer", [LOOP_PEERS[0], *JAX_PEERS], ids=lambda peer: peer.name)
def test_members_and_examples_have_the_gradients_of_a_plain_call(peer):
    plain, members, examples = (
        program_of(peer, Case(B, T, F, U, **fields), VALUE_AND_GRAD).run()
        for fields in ({}, {"members": 2}, {"per_example": True})
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    loss, gradients = plain
    both, by_members = members
    assert both.shape == () and both > 1.5 * loss
    # The parameters and the inputs of the first member are those of the plain call.
    jax.tree.map(lambda one, of_all: close(of_all[0], one), gradients, by_members)
    assert all((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(by_members))
    losses, by_examples = examples
    assert losses.shape == (B,)
    close(losses.mean(), loss)
    jax.tree.map(lambda one, of_all: close(of_all.mean(axis=0), one), gradients[0], by_examples)


@pytest.mark.parametrize("peer", [LOOP_PEERS[0], LIBRARIES["keras"]], ids=lambda peer: peer.name)
def test_dropout_drops_the_same_at_every_run(peer):
    plain, dropping = (
        program_of(peer, Case(B, T, F, U, dropout=rate), VALUE_AND_GRAD) for rate in (0.0, 0.5)
    )
    (loss, _), (other, (_, by_inputs)) = plain.run(), dropping.run()
    assert loss != other == dropping.run()[0]
    # Some inputs are dropped for every gate, and so at every step; at the first, zeros hide a gate.
    dropped = np.asarray(by_inputs[:, 1:] == 0)
    assert dropped.any() and (dropped == dropped[:, :1]).all()


def test_baselines_solve_the_case_without_what_is_special():
    case = Case(B, T, F, U, "bfloat16", dropout=0.5)
    plain = LOOP_PEERS[0].make(Case(B, T, F, U), "forward").run()
    assert FLOAT32.make(Case(B, T, F, U, "bfloat16"), "forward").run().dtype == plain.dtype
    narrow = LOOP_PEERS[0].make(Case(B, T, F, U, "bfloat16"), "forward").run()
    np.testing.assert_array_equal(NO_DROPOUT.make(case, "forward").run(), narrow)


def test_onnx_computes_what_gruflax_does():
    case = Case(B, T, F, U)
    program = program_of(LIBRARIES["onnxruntime"], case, "forward")
    (got,) = program.arrays(program.run())
    params = gruflax_params(case)
    assert all(np.asarray(value).all() for value in params.values())
    expected, _ = gru_sequence(params, case.inputs())
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["flax.linen", "flax.nnx", "haiku", "equinox", "keras", "torch"])
def test_16_bit_floats_are_computed_in_16_bits(name):
    (outputs,) = jax.tree.leaves(
        program_of(LIBRARIES[name], Case(2, 3, F, U, "bfloat16"), "forward").run()
    )
    assert str(outputs.dtype).endswith("bfloat16")


def test_float64_is_computed_in_float64():
    case = Case(2, 3, F, U, "float64")
    with environment(case):
        outputs = LOOP_PEERS[0].make(case, "forward").run()
    assert outputs.dtype == "float64"


def test_the_memory_of_the_native_loop_has_the_kernels_own():
    native, auto = (
        next(peer for peer in LOOP_PEERS if peer.name == f"gruflax ({loop})").make(
            Case(4, 50, 64, 64), VALUE_AND_GRAD
        )
        for loop in ("native", "auto")
    )
    assert native.temp_bytes == auto.temp_bytes
    # The packed weights alone, for both directions.
    assert native.temp_bytes > 2 * 4 * (64 + 64) * 3 * 64


def test_the_loss_leaves_masked_outputs_out():
    outputs = np.random.default_rng(2).normal(size=(B, T, U)).astype(np.float32)
    mask = Case(B, T, F, U, masked=True).mask()
    expected = np.square(outputs[mask]).mean()
    padded = np.where(mask[..., None], outputs, np.float32(1e6))
    np.testing.assert_allclose(mean_square(jax.numpy.asarray(padded), mask), expected, rtol=1e-5)


def test_the_compiled_program_is_that_of_the_function():
    case = Case(B, T, F, U, masked=True)

    def apply(params, inputs: Inputs):
        return params * inputs.x.sum() * inputs.mask.sum() / inputs.lengths.sum()

    program = jax_program(case, "forward", apply, np.float32(2))
    np.testing.assert_allclose(program.run(), 2 * case.inputs().sum(), rtol=1e-4)


def test_obstacles_are_told():
    case = Case(B, T, F, U)
    absent = Peer("other", "jax", make=None, package="dm-no_such_library")
    assert absent.obstacle(case, "forward") == "is not installed (pip install dm-no_such_library)"
    lacks = (VALUE_AND_GRAD, "masks", "recurrent dropout", "jax.vmap", "float64")
    limited = Peer("other", "jax", make=None, package="numpy", lacks=lacks)
    assert limited.obstacle(case, "forward") is None
    assert limited.obstacle(case, VALUE_AND_GRAD) == "has no value_and_grad"
    asked = {"masked": True, "dtype": "float64", "dropout": 0.1, "members": 2, "per_example": True}
    told = [limited.obstacle(Case(B, T, F, U, **{k: v}), "forward") for k, v in asked.items()]
    wanted = ("masks", "float64", "recurrent dropout", "jax.vmap", "jax.vmap")
    assert told == [f"has no {each}" for each in wanted]
    able = Peer("other", "jax", make=None)
    assert not any(able.obstacle(Case(B, T, F, U, **{k: v}), "forward") for k, v in asked.items())
