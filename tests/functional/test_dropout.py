"""Dropout masks: how many, of what, and where they act."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import gruflax
from gruflax import DropoutMasks, GRUConfig
from gruflax.functional.params import params_shapes


INPUTS = oracle.golden_inputs()


@pytest.mark.parametrize(
    "implementation, dropout, recurrent_dropout, counts",
    [
        (1, 0.5, 0.0, (3, None)),
        (2, 0.5, 0.0, (1, None)),
        (2, 0.5, 0.5, (3, 3)),
        (1, 0, 0.5, (None, 3)),
    ],
)
def test_number_of_masks(implementation, dropout, recurrent_dropout, counts):
    config = GRUConfig(
        implementation=implementation, dropout=dropout, recurrent_dropout=recurrent_dropout
    )
    masks = gruflax.draw_dropout_masks(jax.random.key(0), (2,), 4, 5, config)
    for mask, count, size in zip(masks[:2], counts, (4, 5), strict=True):
        assert (mask is None) == (count is None)
        if mask is not None:
            assert mask.shape == (count, 2, size)


def test_no_key_draws_nothing():
    config = GRUConfig(dropout=0.5, recurrent_dropout=0.5)
    assert gruflax.draw_dropout_masks(None, (2,), 4, 5, config) == DropoutMasks(None, None)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_masks_keep_the_mean(rate):
    mask = np.asarray(gruflax.dropout_mask(jax.random.key(1), rate, (400, 500)))
    np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs((mask == 0).mean() - rate) < 5e-3
    assert abs(mask.mean() - 1) < 3e-2


def test_gates_and_kinds_have_masks_of_their_own():
    config = GRUConfig(dropout=0.5, recurrent_dropout=0.5)
    masks = gruflax.draw_dropout_masks(jax.random.key(0), (8,), 16, 16, config)
    assert masks.inputs is not None and masks.recurrent is not None
    drawn = [np.asarray(mask) for mask in (*masks.inputs, *masks.recurrent)]
    for index, mask in enumerate(drawn):
        for other in drawn[index + 1 :]:
            assert 0.3 < (mask == other).mean() < 0.7


def test_rate_one_drops_everything_without_nan():
    params = oracle.golden_params(True, True)
    config = GRUConfig(dropout=1.0, recurrent_dropout=1.0)

    def run(x):
        return gruflax.gru_sequence(params, x, config=config, rng=jax.random.key(0))[0]

    outputs, gradient = run(INPUTS["x"]), jax.grad(lambda x: run(x).sum())(INPUTS["x"])
    np.testing.assert_array_equal(outputs, run(np.zeros_like(INPUTS["x"])))
    assert np.isfinite(outputs).all() and not gradient.any()


def numpy_dropped(params, x, h, masks, reset_after):
    """The equations with masks, in float64: the carry term has the undropped state."""
    units = h.shape[-1]
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    K, R = (np.split(params[name], 3, axis=-1) for name in ("kernel", "recurrent_kernel"))
    bias = np.zeros((2, 3 * units)) + 0.0
    bias[0] = params["bias"][0] if reset_after else params["bias"]
    bias[1] = params["bias"][1] if reset_after else 0
    bx, bh = (np.split(row, 3) for row in bias)
    D, P = (np.broadcast_to(mask, (3, *mask.shape[1:])) for mask in masks[:2])
    for step in range(x.shape[1]):
        gx = [(x[:, step] * D[gate]) @ K[gate] + bx[gate] for gate in range(3)]
        z = sigmoid(gx[0] + (h * P[0]) @ R[0] + bh[0])
        r = sigmoid(gx[1] + (h * P[1]) @ R[1] + bh[1])
        dropped = h * P[2]
        inner = r * (dropped @ R[2] + bh[2]) if reset_after else (r * dropped) @ R[2]
        h = z * h + (1 - z) * np.tanh(gx[2] + inner)
    return h


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_injected_masks_are_the_equations(reset_after, count):
    random = np.random.default_rng(5)
    masks = DropoutMasks(
        *(random.integers(0, 2, size=(count, 3, size)).astype(np.float32) * 2 for size in (4, 5))
    )
    params = oracle.golden_params(reset_after, True)
    _, state = gruflax.gru_sequence(
        params,
        INPUTS["x"],
        config=GRUConfig(reset_after=reset_after),
        initial_state=INPUTS["h0"],
        dropout_masks=masks,
    )
    wanted = numpy_dropped(params, INPUTS["x"], INPUTS["h0"], masks, reset_after)
    np.testing.assert_allclose(state, wanted, atol=3e-6)


def test_recurrent_dropout_does_not_explode():
    params = gruflax.init_gru_params(jax.random.key(0), 8, 16)
    x = jax.random.normal(jax.random.key(1), (4, 200, 8))
    config = GRUConfig(recurrent_dropout=0.5)
    outputs, _ = gruflax.gru_sequence(params, x, config=config, rng=jax.random.key(2))
    assert jnp.abs(outputs).max() <= 1.0


@pytest.mark.parametrize("implementation", [1, 2])
@pytest.mark.parametrize("reset_after", [True, False])
def test_injected_masks_have_gradients_in_every_loop(reset_after, implementation, x64):
    config = gruflax.GRUConfig(reset_after=reset_after, implementation=implementation)
    random = np.random.default_rng(0)
    count = 3 if implementation == 1 else 1
    params = {
        name: random.normal(size=shape) for name, shape in params_shapes(4, 5, config).items()
    }
    x = random.normal(size=(3, 7, 4))
    shapes = ((count, 3, 4), (count, 3, 5), (5, 15))
    masks = gruflax.DropoutMasks(*(random.uniform(size=shape) for shape in shapes))

    def loss(masks, **options):
        outputs, _ = gruflax.gru_sequence(params, x, config=config, dropout_masks=masks, **options)
        return (outputs**2).sum()

    def by_hand(masks):
        def step(state, x):
            return gruflax.gru_cell_step(params, state, x, config=config, dropout_masks=masks)

        _, outputs = jax.lax.scan(step, jnp.zeros((3, 5)), jnp.asarray(x).swapaxes(0, 1))
        return (outputs**2).sum()

    wanted = jax.jit(jax.grad(by_hand))(masks)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 1e-3
    for options in ({"loop": "scan"}, {"loop": "chunked", "chunk": 3}, {"remat": True}):
        run = functools.partial(loss, **options)
        got = jax.jit(jax.grad(run))(masks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, wanted)
        tangent = jax.jit(lambda masks, run=run: jax.jvp(run, (masks,), (masks,))[1])(masks)
        products = jax.tree.map(lambda a, b: (a * b).sum(), wanted, masks)
        np.testing.assert_allclose(tangent, sum(jax.tree.leaves(products)), rtol=1e-10)


def test_masks_hang_on_the_key_and_the_shapes_alone(x64):
    wide = gruflax.dropout_mask(jax.random.key(0), 0.3, (40, 5))
    with jax.enable_x64(False):
        narrow = gruflax.dropout_mask(jax.random.key(0), 0.3, (40, 5))
    np.testing.assert_array_equal(wide, narrow)
