"""A sequence in both directions, with layers that add up their inputs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from gruflax.layers.directions import check_pair, run_directions


X = np.arange(12.0, dtype="float32").reshape(2, 3, 2)


@dataclasses.dataclass(frozen=True)
class Sum:
    """Adds up what it has seen."""

    go_backwards: bool = False
    return_sequences: bool = True
    return_state: bool = False
    time_major: bool = False
    stateful: bool = False

    def __call__(self, initial_state, reset, mask, seq_lengths):
        start = 0.0 if initial_state is None else initial_state[0][:, None]
        inputs = jnp.flip(X, 1) if self.go_backwards else X
        outputs = jnp.cumsum(inputs, 1) + start
        shown = outputs if self.return_sequences else outputs[:, -1]
        return (shown, outputs[:, -1]) if self.return_state else shown


def both(merge_mode="concat", initial_state=None, mask=None, **fields):
    layers = Sum(**fields), Sum(go_backwards=True, **fields)
    check_pair(("layer", "backward_layer"), layers)
    return run_directions(
        lambda layer, **options: layer(**options),
        layers,
        X,
        1,
        merge_mode=merge_mode,
        initial_state=initial_state,
        reset=None,
        mask=mask,
        seq_lengths=None,
    )


FORWARD, BACKWARD = X.cumsum(1), X[:, ::-1].cumsum(1)[:, ::-1]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("concat", np.concatenate([FORWARD, BACKWARD], -1)),
        ("sum", FORWARD + BACKWARD),
        ("mul", FORWARD * BACKWARD),
        ("ave", (FORWARD + BACKWARD) / 2),
    ],
)
def test_merging(mode, wanted):
    np.testing.assert_array_equal(both(mode), wanted)


def test_both_outputs():
    forward, backward = both(None)
    np.testing.assert_array_equal(forward, FORWARD)
    np.testing.assert_array_equal(backward, BACKWARD)


def test_sequences_are_zeros_at_masked_steps():
    mask = np.arange(X.shape[1]) < np.array([[1], [X.shape[1]]])
    got, wanted = both("concat", mask=mask), np.concatenate([FORWARD, BACKWARD], -1)
    np.testing.assert_array_equal(got, wanted * mask[..., None])
    both("concat", mask=mask, return_sequences=False)


def test_states_and_last_outputs():
    states = np.ones((2, 2), "float32"), np.full((2, 2), 2.0, "float32")
    merged, forward, backward = both("sum", states, return_sequences=False, return_state=True)
    total = X.sum(1)
    np.testing.assert_array_equal(forward, total + 1)
    np.testing.assert_array_equal(backward, total + 2)
    np.testing.assert_array_equal(merged, 2 * total + 3)


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ({}, {}, "a and b must have opposite go_backwards, got False for both"),
        (
            {"return_state": True},
            {"go_backwards": True},
            "a and b must have the same return_state, got True and False",
        ),
    ],
)
def test_pairs_that_do_not_fit(one, two, message):
    with pytest.raises(ValueError, match=message):
        check_pair(("a", "b"), (Sum(**one), Sum(**two)))
