"""Stage 5: cuDNN's algorithms, layouts and units of multiplication, each alone."""

import itertools

from contestants import SETTINGS
from race import Race
from record import Record, options, platform

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD, Case


# One with a state that small persistent kernels hold, and one with a larger one.
SHAPES = ((64, 256, 128, 128), (64, 256, 128, 256))
DTYPES = ("float32", "float16")


def main() -> None:
    """Runs the stage."""
    chosen = options()
    shapes = ((3, 6, 4, 5),) if chosen.dry else SHAPES
    race = Race(SETTINGS, Record("algorithms", chosen.folder), chosen.dry, 68)
    for shape, dtype, mode in itertools.product(shapes, DTYPES, (VALUE_AND_GRAD, FORWARD)):
        case = Case(*shape, dtype, device=platform(chosen.dry))
        if race.left() > 5:
            race.run(case, mode, 0.2 if chosen.dry else 1.0)
        else:
            race.skip(case, mode)


if __name__ == "__main__":
    main()
