"""Statistics of repeated timings."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The middle half of some timings.

    Attributes:
        median: seconds.
        low: the first quartile, seconds.
        high: the third quartile, seconds.
        rounds: how many timings there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def spread(seconds: Sequence[float]) -> Spread:
    """Returns the median and the quartiles of timings.

    Args:
        seconds: one or more timings.

    Returns:
        The `Spread`, quartiles interpolated linearly, as `numpy.quantile` does.

    Raises:
        ValueError: there is no timing.
    """
    if not seconds:
        raise ValueError("seconds must hold at least one timing, got none.")
    if len(seconds) == 1:
        return Spread(seconds[0], seconds[0], seconds[0], 1)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Spread(median, low, high, len(seconds))


def geometric_mean(ratios: Iterable[float]) -> float:
    """Returns the geometric mean of positive ratios.

    Args:
        ratios: one or more positive numbers.

    Returns:
        Their geometric mean.

    Raises:
        ValueError: there is none, or one is not positive.
    """
    ratios = list(ratios)
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"ratios must be positive numbers, at least one, got {ratios}.")
    return statistics.geometric_mean(ratios)
