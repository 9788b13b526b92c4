"""Interleaving, on a clock that stands still between calls."""

import pytest

from gruflax.bench.measure import (
    LEAST_ROUNDS,
    MOST_ROUNDS,
    SAMPLE_SECONDS,
    interleave,
    spread,
)


class Clock:
    """A clock that only its contestants advance."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def contestant(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


@pytest.fixture
def clock():
    return Clock()


def test_samples_are_the_seconds_of_one_call(clock):
    costs = {"short": 1e-4, "medium": 5e-3, "long": 0.3}
    runs = {name: clock.contestant(name, cost) for name, cost in costs.items()}
    samples = interleave(runs, 1.0, clock=clock)
    for name, cost in costs.items():
        assert len(samples[name]) == LEAST_ROUNDS
        assert samples[name] == pytest.approx([cost] * LEAST_ROUNDS)
    # Two calls to warm up; then per round one that settles, if short, and those of the sample.
    assert clock.calls.count("long") == 2 + LEAST_ROUNDS
    assert clock.calls.count("medium") == 2 + 2 * LEAST_ROUNDS
    assert clock.calls.count("short") == 2 + (1 + round(SAMPLE_SECONDS / 1e-4)) * LEAST_ROUNDS


def test_rounds_go_on_until_the_budget_is_spent(clock):
    runs = {name: clock.contestant(name, 0.1) for name in "ab"}
    samples = interleave(runs, 3.0, clock=clock)
    assert len(samples["a"]) == len(samples["b"]) in (15, 16)


def test_rounds_end_without_spending_a_large_budget(clock):
    samples = interleave({"a": clock.contestant("a", 0.02)}, 1e9, clock=clock)
    assert len(samples["a"]) == MOST_ROUNDS


def test_every_round_has_every_contestant_and_the_order_changes(clock):
    runs = {name: clock.contestant(name, 0.1) for name in "abc"}
    interleave(runs, 0.1, clock=clock)
    timed = clock.calls[6:]
    rounds = ["".join(timed[start : start + 3]) for start in range(0, len(timed), 3)]
    assert len(rounds) == LEAST_ROUNDS
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_the_spread_of_known_numbers():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0, 5)
    assert spread([0.5]) == (0.5, 0.5, 0.5, 1)


def test_an_outlier_moves_neither_the_median_nor_the_quartiles():
    calm = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert spread([*calm[:-1], 7e9])[:3] == spread(calm)[:3]
