"""One step against the equations, and inside a hand-written scan."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import gruflax


INPUTS = oracle.golden_inputs()


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_step_is_the_equations(reset_after, use_bias):
    config = gruflax.GRUConfig(reset_after=reset_after, use_bias=use_bias)
    params = oracle.golden_params(reset_after, use_bias)
    state, output = gruflax.gru_cell_step(
        params, INPUTS["h0"], INPUTS["x"][:, 0], None, config=config
    )
    _, wanted = oracle.numpy_gru(params, INPUTS["x"][:, :1], INPUTS["h0"], reset_after=reset_after)
    np.testing.assert_allclose(state, wanted, atol=1e-6)
    np.testing.assert_array_equal(state, output)


@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3)])
def test_any_number_of_batch_axes(batch_shape):
    params = oracle.golden_params(True, True)
    random = np.random.default_rng(0)
    x = random.normal(size=(*batch_shape, 4)).astype(np.float32)
    h = random.normal(size=(*batch_shape, 5)).astype(np.float32)
    state, _ = gruflax.gru_cell_step(params, h, x)
    _, wanted = oracle.numpy_gru(params, x.reshape(-1, 1, 4), h.reshape(-1, 5))
    np.testing.assert_allclose(state, wanted.reshape(h.shape), atol=1e-6)


@pytest.mark.parametrize("options", list(itertools.product([True, False], [1, 2], [0.0, 0.4])))
def test_hand_written_scan_with_one_key_is_gru_sequence(options):
    reset_after, implementation, recurrent_dropout = options
    config = gruflax.GRUConfig(
        reset_after=reset_after,
        implementation=implementation,
        dropout=0.3,
        recurrent_dropout=recurrent_dropout,
    )
    params = oracle.golden_params(reset_after, True)
    rng = jax.random.key(7)

    def body(state, x):
        return gruflax.gru_cell_step(params, state, x, rng, config=config)

    state, outputs = jax.lax.scan(body, jnp.asarray(INPUTS["h0"]), INPUTS["x"].swapaxes(0, 1))
    wanted, wanted_state = gruflax.gru_sequence(
        params, INPUTS["x"], config=config, initial_state=INPUTS["h0"], rng=rng
    )
    np.testing.assert_allclose(outputs.swapaxes(0, 1), wanted, atol=1e-6)
    np.testing.assert_allclose(state, wanted_state, atol=1e-6)
    plain, _ = gruflax.gru_sequence(params, INPUTS["x"], config=config, initial_state=INPUTS["h0"])
    assert np.abs(plain - wanted).max() > 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": np.zeros((3, 5), np.float32)}, r"x must have shape \(\.\.\., 4\), got \(3, 5\)"),
        ({"x": np.float32(1)}, r"x must have shape \(\.\.\., 4\), got \(\)"),
        ({"state": np.zeros((2, 5), np.float32)}, r"state must have shape \(3, 5\), got \(2, 5\)"),
        ({"params": {"kernel": INPUTS["K"]}}, r"params must hold .*recurrent_kernel"),
        (
            {"params": oracle.golden_params(False, True)},
            r"bias \(2, 3u\) for reset_after=True, got .*'bias': \(15,\)",
        ),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {
        "params": oracle.golden_params(True, True),
        "state": INPUTS["h0"],
        "x": INPUTS["x"][:, 0],
    }
    with pytest.raises(ValueError, match=message):
        gruflax.gru_cell_step(**(arguments | change))


@pytest.mark.parametrize(
    "params_dtype, x_dtype, dtype, wanted",
    [
        ("float32", "float32", None, "float32"),
        ("float32", "bfloat16", None, "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("float16", "float16", None, "float16"),
        ("float32", "float32", "bfloat16", "bfloat16"),
        ("float32", "int32", None, "float32"),
    ],
)
def test_compute_dtype(params_dtype, x_dtype, dtype, wanted):
    params = {
        name: jnp.asarray(value, params_dtype)
        for name, value in oracle.golden_params(True, True).items()
    }
    x = jnp.asarray(INPUTS["x"][:, 0]).astype(x_dtype)
    state, output = gruflax.gru_cell_step(params, INPUTS["h0"], x, dtype=dtype)
    assert state.dtype == output.dtype == wanted
    full = {name: np.asarray(value, np.float32) for name, value in params.items()}
    exact, _ = gruflax.gru_cell_step(full, INPUTS["h0"], x.astype(jnp.float32))
    tolerance = 1e-6 if wanted == "float32" else 4e-2
    np.testing.assert_allclose(state.astype(jnp.float32), exact, atol=tolerance)


def test_dtype_must_be_floating():
    with pytest.raises(TypeError, match="dtype must be a floating dtype, got int32"):
        gruflax.gru_cell_step(
            oracle.golden_params(True, True), INPUTS["h0"], INPUTS["x"][:, 0], dtype="int32"
        )
