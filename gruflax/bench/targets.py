"""What a run says in a few numbers: the ratios that gruflax is judged by."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gruflax.bench.case import FORWARD, MEMORY_SHAPE, STEP, TARGET_SHAPES, VALUE_AND_GRAD
from gruflax.bench.peers import FLOOR_PEER, OTHER_PEERS, STEP_PEERS, SUBJECT
from gruflax.bench.peers.peer import GRUFLAX, JAX_PEER
from gruflax.bench.session import Group, Result
from gruflax.bench.spread import geometric_mean


LINEN = "flax.linen"

Measure = Callable[[Group], float | None]


class Target(NamedTuple):
    """A ratio over several cases.

    Attributes:
        name: what over what.
        mean: geometric mean of the ratio over the cases.
        lowest: its lowest value.
        highest: its highest value.
        where: the case of the lowest.
        cases: how many cases.
    """

    name: str
    mean: float
    lowest: float
    highest: float
    where: str
    cases: int


def best_jax_peer(group: Group) -> Result | None:
    """Returns the fastest of the other JAX libraries, or None where none was timed."""
    peers = [result for result in group.results if result.kind == JAX_PEER and result.spread]
    return min(peers, key=lambda result: seconds(result) or 0.0, default=None)


def seconds(result: Result | None) -> float | None:
    """Returns the median time of a result, or None where there is none."""
    return result.spread.median if result and result.spread else None


def ratio(over: float | None, under: float | None) -> float | None:
    """Divides where both are known and the divisor is not zero."""
    return over / under if over is not None and under else None


def find_targets(groups: Sequence[Group]) -> list[Target]:
    """Computes the ratios that a run allows.

    Geometric means are over the target shapes, or over all shapes where no target was timed.

    Args:
        groups: what was measured.

    Returns:
        One `Target` a ratio; those without a case are left out.
    """
    targets = []
    for dtype, masked in sorted({(group.case.dtype, group.case.masked) for group in groups}):
        alike = [g for g in groups if (g.case.dtype, g.case.masked) == (dtype, masked)]
        kind = f"{dtype}, masked" if masked else dtype
        for mode in (VALUE_AND_GRAD, FORWARD):
            timed = _target_groups(alike, mode)
            targets += _comparison(
                f"{mode} ({kind}): best JAX peer / {SUBJECT}", timed, _against_best
            )
            for peer in OTHER_PEERS:
                name = f"{mode} ({kind}): {peer.name} / {SUBJECT}"
                targets += _comparison(name, timed, _times(peer.name, SUBJECT))
            targets += _comparison(
                f"{mode} ({kind}): {SUBJECT} / {FLOOR_PEER.name}",
                timed,
                _times(SUBJECT, FLOOR_PEER.name),
            )
        large = [g for g in alike if g.case.shape == MEMORY_SHAPE and g.mode == VALUE_AND_GRAD]
        name = f"temporary memory of value_and_grad ({kind}): {LINEN} / {SUBJECT}"
        targets += _comparison(name, large, _temporary_memory)
        steps = [group for group in alike if group.mode == STEP]
        rival = next(peer.name for peer in STEP_PEERS if peer.kind == JAX_PEER)
        for peer in STEP_PEERS:
            if peer.kind == GRUFLAX:
                name = f"one step a call ({kind}): {rival} / {peer.name}"
                targets += _comparison(name, steps, _times(rival, peer.name))
    return targets


def _target_groups(groups: Iterable[Group], mode: str) -> list[Group]:
    """Picks the timed groups of a mode: those of the target shapes, if any."""
    timed = [g for g in groups if g.mode == mode and any(r.spread for r in g.results)]
    return [group for group in timed if group.case.shape in TARGET_SHAPES] or timed


def _comparison(name: str, groups: Iterable[Group], measure: Measure) -> list[Target]:
    """Makes one target, or none where nothing can be compared."""
    known = [(value, g.case.label) for g in groups if (value := measure(g)) is not None]
    if not known:
        return []
    values = [value for value, _ in known]
    lowest, where = min(known)
    return [Target(name, geometric_mean(values), lowest, max(values), where, len(known))]


def _against_best(group: Group) -> float | None:
    return ratio(seconds(best_jax_peer(group)), seconds(group.result(SUBJECT)))


def _times(over: str, under: str) -> Measure:
    """Compares the times of two contestants by name."""
    return lambda group: ratio(seconds(group.result(over)), seconds(group.result(under)))


def _temporary_memory(group: Group) -> float | None:
    sizes = [getattr(group.result(name), "temp_bytes", None) for name in (LINEN, SUBJECT)]
    return ratio(*sizes)
