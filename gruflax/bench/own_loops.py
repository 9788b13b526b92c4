"""Times each loop on this machine for some seconds: `python -m gruflax.demo --loop`."""

from collections.abc import Callable

import jax
from rich.table import Table

from gruflax.bench.case import MODES, Case
from gruflax.bench.contestants import LOOP_PEERS, SUBJECT, gruflax_params
from gruflax.bench.libraries import LIBRARIES, LINEN
from gruflax.bench.measure import measure_group
from gruflax.bench.plan import FULL_SHAPES
from gruflax.bench.report import format_seconds, new_table
from gruflax.functional import NativeInfo, explain_loop, native_info


CASE = Case(*FULL_SHAPES[0])
# "auto" would run one of the other loops again.
PEERS = (*(peer for peer in LOOP_PEERS if peer.name != SUBJECT), LIBRARIES[LINEN])
# For the timings of a mode, all contestants together.
SECONDS = 3.0


def loops_table(say: Callable[[str], None]) -> Table:
    """Times gruflax's loops and flax.linen in turn on the CPU, forward and in training.

    `say` is told what is being done. The first row is the loop that "auto" takes here: the native
    loop where it runs. The others are compared with it and sorted by their time in training.
    """
    params = jax.eval_shape(lambda: gruflax_params(CASE))
    usual = explain_loop(params, CASE.inputs()).gradient
    groups = []
    for mode, name in zip(MODES, ("the forward pass", "training"), strict=True):
        say(f"compiling and timing {name} ...")
        groups.append(measure_group(CASE, mode, PEERS, SECONDS))
    table = new_table("loop", "forward", f"x {usual}", "training", f"x {usual}")
    reference = f"gruflax ({usual})"
    names = [result.name for result in groups[1].results]
    for name in sorted(names, key=lambda name: (name != reference, groups[1].seconds(name))):
        cells = []
        for group in groups:
            own = group.seconds(name)
            cells += [format_seconds(own), f"{own / group.seconds(reference):.2f}"]
        table.add_row(name.removeprefix("gruflax ").strip("()"), *cells)
    return table


def loops_note(info: NativeInfo | None = None) -> str:
    """Returns a note of what was timed, and why the native loop was not if it does not run here."""
    info = native_info() if info is None else info
    batch, time, features, units = CASE.shape
    native = "" if info.available else f" The native loop does not run here: {info.reason}."
    return (
        f"{batch} sequences of {time} steps, {features} features and {units} units, in float32. "
        "Training is a loss and all its gradients. Times are medians of interleaved runs, and also "
        'given as multiples of those of the first loop, which "auto" takes here.'
        f"{native}"
    )
