"""Times each loop on this machine for some seconds: `python -m gruflax.demo --loop`."""

from rich.table import Table

from gruflax.bench.case import MODES, Case
from gruflax.bench.contestants import LOOP_PEERS, SUBJECT
from gruflax.bench.libraries import LIBRARIES, LINEN
from gruflax.bench.measure import measure_group
from gruflax.bench.plan import FULL_SHAPES
from gruflax.bench.report import format_seconds, new_table
from gruflax.functional import NativeInfo, native_info


CASE = Case(*FULL_SHAPES[0])
# "auto" would run one of the other loops again.
PEERS = (*(peer for peer in LOOP_PEERS if peer.name != SUBJECT), LIBRARIES[LINEN])


def loops_table(budget: float = 1.0) -> Table:
    """Times gruflax's loops and flax.linen on the CPU, forward and in training, fastest first.

    `budget` is the time for each of the two, in seconds.
    """
    groups = [measure_group(CASE, mode, PEERS, budget) for mode in MODES]
    table = new_table("loop", "forward", "ratio", "training", "ratio")
    names = [result.name for result in groups[1].results]
    names.sort(key=groups[1].seconds)
    for name in names:
        cells = []
        for group in groups:
            own, fastest = group.seconds(name), group.seconds(names[0])
            cells += [format_seconds(own), f"{own / fastest:.2f}"]
        table.add_row(name.removeprefix("gruflax ").strip("()"), *cells)
    return table


def loops_note(info: NativeInfo | None = None) -> str:
    """Returns a note of what was timed, and why the native loop was not if it does not run here."""
    info = native_info() if info is None else info
    batch, time, features, units = CASE.shape
    native = "" if info.available else f" The native loop does not run here: {info.reason}."
    return (
        f"{batch} sequences of {time} steps, {features} features and {units} units, in float32. "
        "Training is a loss and all its gradients; ratios are times over those of the first row."
        f"{native}"
    )
