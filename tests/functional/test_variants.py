"""Zoneout, dropped recurrent weights and a learned initial state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gruflax
from gruflax import DropoutMasks, GRUConfig


KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(0), (3, 6, 4))
LOOPS = ({"loop": "scan"}, {"loop": "chunked", "chunk": 4}, {"unroll": True}, {"loop": "auto"})


def params_of(config, features=4, units=5):
    params = gruflax.init_gru_params(jax.random.key(1), features, units, config)
    keys = jax.random.split(jax.random.key(2), len(params))
    return {
        name: value + 0.5 * jax.random.normal(key, value.shape, value.dtype)
        for key, (name, value) in zip(keys, params.items(), strict=True)
    }


def plain(params):
    return {name: value for name, value in params.items() if name != "initial_state"}


@pytest.mark.parametrize("reset_after", [True, False])
def test_zoneout_at_inference_moves_by_the_expectation(reset_after):
    config = GRUConfig(zoneout=0.3, reset_after=reset_after)
    params = params_of(config)
    before = jax.random.normal(jax.random.key(3), (3, 5))
    after, _ = gruflax.gru_cell_step(
        params, before, X[:, 0], config=GRUConfig(reset_after=reset_after)
    )
    state, _ = gruflax.gru_cell_step(params, before, X[:, 0], config=config)
    np.testing.assert_allclose(state, 0.3 * before + 0.7 * after, rtol=1e-5, atol=1e-6)


def test_zoneout_in_training_keeps_units_drawn_at_every_step():
    config = GRUConfig(zoneout=0.4)
    params = params_of(config, units=64)
    states, last = gruflax.gru_sequence(params, X, config=config, rng=KEY)
    before = jnp.concatenate([jnp.zeros((3, 1, 64)), states[:, :-1]], axis=1)
    kept = np.asarray(states == before)
    assert abs(kept.mean() - 0.4) < 0.05
    # Each step draws anew, and so does each sequence.
    for one, other in [(kept[:, 1], kept[:, 2]), (kept[0], kept[1])]:
        assert 0.4 < (one == other).mean() < 0.65
    # The units that move, move by a whole step.
    after, _ = gruflax.gru_cell_step(params, before, X, config=GRUConfig())
    np.testing.assert_allclose(states[~kept], after[~kept], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last, states[:, -1])


def test_zoneout_and_masks():
    config = GRUConfig(zoneout=0.4)
    params, mask = params_of(config), gruflax.lengths_to_mask([6, 3, 0], 6)
    inputs = jnp.where(mask[..., None], X, jnp.nan)
    outputs, state = gruflax.gru_sequence(
        params, inputs, config=config, rng=KEY, mask=mask, zero_output_for_mask=True
    )
    # Zeros are for masked steps, not for units that are zoned out.
    assert (outputs[~mask] == 0).all()
    carried, _ = gruflax.gru_sequence(params, inputs, config=config, rng=KEY, mask=mask)
    np.testing.assert_array_equal(outputs[mask], carried[mask])
    np.testing.assert_array_equal(state[1], carried[1, 2])
    np.testing.assert_array_equal(carried[1, 2:], jnp.broadcast_to(carried[1, 2], (4, 5)))


@pytest.mark.parametrize("options", LOOPS)
def test_zoneout_is_drawn_in_the_order_of_processing(options):
    config = GRUConfig(zoneout=0.4)
    params = params_of(config)

    def run(inputs, **layout):
        return gruflax.gru_sequence(params, inputs, config=config, rng=KEY, **layout, **options)

    outputs, state = run(X[:, ::-1])
    for inputs, axes, layout in (
        (X, (0, 1, 2), {"go_backwards": True}),
        (X.swapaxes(0, 1), (1, 0, 2), {"go_backwards": True, "time_major": True}),
    ):
        got, last = run(inputs, **layout)
        np.testing.assert_allclose(got.transpose(axes), outputs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-6)


def test_zoneout_of_one_stands_still():
    config = GRUConfig(zoneout=1.0)
    params, start = params_of(config), jax.random.normal(KEY, (3, 5))
    for rng in (None, KEY):
        _, state = gruflax.gru_sequence(params, X, config=config, rng=rng, initial_state=start)
        np.testing.assert_allclose(state, start, rtol=1e-6)


def test_one_step_zones_out_by_its_key():
    config = GRUConfig(zoneout=0.5)
    params, before = params_of(config, units=64), jnp.ones((3, 64))
    one, again, other = (
        gruflax.gru_cell_step(params, before, X[:, 0], key, config=config)[0]
        for key in (KEY, KEY, jax.random.key(6))
    )
    np.testing.assert_array_equal(one, again)
    assert 0.3 < ((one == before) == (other == before)).mean() < 0.7
    assert 0.4 < (one == before).mean() < 0.6


@pytest.mark.parametrize("reset_after", [True, False])
def test_dropped_recurrent_weights_are_a_gru_with_other_weights(reset_after):
    config = GRUConfig(recurrent_weight_dropout=0.5, reset_after=reset_after)
    params = params_of(config)
    masks = gruflax.draw_dropout_masks(KEY, (3,), 4, 5, config)
    weights = masks.recurrent_weights
    assert weights is not None and weights.shape == (5, 15)
    np.testing.assert_allclose(np.unique(weights), [0, 2])
    dropped = {**params, "recurrent_kernel": params["recurrent_kernel"] * weights}
    wanted, _ = gruflax.gru_sequence(dropped, X, config=GRUConfig(reset_after=reset_after))
    for given in ({"rng": KEY}, {"dropout_masks": DropoutMasks(recurrent_weights=weights)}):
        outputs, _ = gruflax.gru_sequence(params, X, config=config, **given)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-6)
    state = jnp.zeros((3, 5))
    for step in range(6):
        state, _ = gruflax.gru_cell_step(params, state, X[:, step], KEY, config=config)
    np.testing.assert_allclose(state, wanted[:, -1], rtol=1e-5, atol=1e-6)
    whole, _ = gruflax.gru_sequence(params, X, config=config)
    assert abs(whole - wanted).max() > 1e-2


def test_learned_initial_state():
    config = GRUConfig(learn_initial_state=True)
    params = params_of(config)
    learned = jnp.broadcast_to(params["initial_state"], (3, 5))
    reset = np.arange(6) == np.array([[2], [3], [9]])
    both = {"initial_state": learned, "reset_state": learned}
    wanted, _ = gruflax.gru_sequence(plain(params), X, **both, reset=reset)
    outputs, _ = gruflax.gru_sequence(params, X, config=config, reset=reset)
    np.testing.assert_array_equal(outputs, wanted)
    given = jnp.ones((3, 5))
    wanted, _ = gruflax.gru_sequence(plain(params), X, initial_state=given)
    outputs, _ = gruflax.gru_sequence(params, X, config=config, initial_state=given)
    np.testing.assert_array_equal(outputs, wanted)


def test_a_fresh_initial_state_is_zeros():
    config = GRUConfig(learn_initial_state=True)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5, config)
    np.testing.assert_array_equal(params["initial_state"], np.zeros(5))


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("rng", [None, KEY], ids=["inference", "training"])
def test_every_loop_and_its_gradient(reset_after, rng):
    config = GRUConfig(
        reset_after=reset_after,
        dropout=0.2,
        recurrent_dropout=0.3,
        recurrent_weight_dropout=0.4,
        zoneout=0.3,
        learn_initial_state=True,
    )
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float64), params_of(config))
        inputs = X.astype(jnp.float64)

        def loss(params, options):
            outputs, state = gruflax.gru_sequence(
                params, inputs, config=config, rng=rng, seq_lengths=[6, 4, 0], **options
            )
            return (outputs**2).sum() + (state**3).sum()

        results = []
        for options in LOOPS:
            run = jax.jit(jax.value_and_grad(functools.partial(loss, options=options)))
            results.append(jax.device_get(run(params)))
    assert abs(results[0][1]["initial_state"]).min() > 1e-3
    for value, gradient in results[1:]:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-12)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12),
            gradient,
            results[0][1],
        )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: GRUConfig(zoneout=1.5), r"zoneout must be in \[0, 1\], got 1.5"),
        (
            lambda: GRUConfig(recurrent_weight_dropout=-1),
            r"recurrent_weight_dropout must be in \[0, 1\], got -1",
        ),
        (
            lambda: gruflax.gru_sequence(
                params_of(GRUConfig()), X, config=GRUConfig(learn_initial_state=True)
            ),
            r"params must hold .*'initial_state'.*learn_initial_state=True, got",
        ),
        (
            lambda: gruflax.gru_sequence(
                params_of(GRUConfig()),
                X,
                dropout_masks=DropoutMasks(recurrent_weights=jnp.ones((5, 5))),
            ),
            r"dropout_masks.recurrent_weights must have shape \(5, 15\), got \(5, 5\)",
        ),
        (
            lambda: gruflax.GRU(4, stateful=True, learn_initial_state=True),
            "learn_initial_state must be False where stateful=True",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
