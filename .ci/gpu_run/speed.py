"""Stage 3: forward and training at large shapes, float32 and bfloat16, against flax and torch."""

import itertools

from contestants import SPEED
from race import Race
from record import Record, options

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD
from gruflax.bench.plan import GPU_SHAPES


if __name__ == "__main__":
    chosen = options()
    race = Race(SPEED, Record("speed", chosen.folder), chosen.dry, 225)
    # Training first, and every shape before the next kind of work: the end may come early.
    kinds = itertools.product((VALUE_AND_GRAD, FORWARD), ("float32", "bfloat16"), GPU_SHAPES)
    race.run_all(((shape, dtype, mode) for mode, dtype, shape in kinds), 1.5)
