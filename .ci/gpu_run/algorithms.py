"""Stage 5: cuDNN's algorithms, layouts and units of multiplication, each alone."""

import itertools

from contestants import SETTINGS
from race import Race
from record import Record, options

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD


# One with a state that small persistent kernels hold, and one with a larger one.
SHAPES = ((64, 256, 128, 128), (64, 256, 128, 256))


if __name__ == "__main__":
    chosen = options()
    race = Race(SETTINGS, Record("algorithms", chosen.folder), chosen.dry, 68)
    kinds = itertools.product(SHAPES, ("float32", "float16"), (VALUE_AND_GRAD, FORWARD))
    race.run_all(kinds, 1.0)
