"""A few seconds' look at what each loop costs on this machine: `python -m gruflax.demo --loop`."""

from rich import box
from rich.table import Table

from gruflax.bench.case import FORWARD, TARGET_SHAPES, VALUE_AND_GRAD, Case
from gruflax.bench.contestants import LOOP_PEERS, SUBJECT
from gruflax.bench.libraries import LIBRARIES
from gruflax.bench.measure import measure_group
from gruflax.bench.report import LINEN, format_seconds, ratio, seconds
from gruflax.functional import NativeInfo, native_info


CASE = Case(*TARGET_SHAPES[0])
# "auto" is one of the others.
PEERS = (*(peer for peer in LOOP_PEERS if peer.name != SUBJECT), LIBRARIES[LINEN])


def loops_table(budget: float = 1.0) -> Table:
    """Times gruflax's loops and flax.linen on the CPU, forward and in training, fastest first.

    `budget` is in seconds, for each of the two.
    """
    groups = [measure_group(CASE, mode, PEERS, budget) for mode in (FORWARD, VALUE_AND_GRAD)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("loop")
    for heading in ("forward", "ratio", "training", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = sorted(
        (result.name for result in groups[1].results),
        key=lambda name: seconds(groups[1].result(name)) or 0.0,
    )
    for name in names:
        cells = []
        for group in groups:
            own, fastest = (seconds(group.result(each)) for each in (name, names[0]))
            cells += [format_seconds(own), f"{ratio(own, fastest) or 0:.2f}"]
        table.add_row(name.removeprefix("gruflax ").strip("()"), *cells)
    return table


def loops_note(info: NativeInfo | None = None) -> str:
    """Says what was timed, and whether the native loop was among it."""
    info = native_info() if info is None else info
    batch, time, features, units = CASE.shape
    native = "" if info.available else f" The native loop does not run here: {info.reason}."
    return (
        f"{batch} sequences of {time} steps, {features} features and {units} units, in float32. "
        "Training is a loss and all its gradients; ratios are times over those of the first row."
        f"{native}"
    )
