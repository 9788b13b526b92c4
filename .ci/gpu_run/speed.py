"""Stage 3: forward and training at large shapes, float32 and bfloat16, against flax and torch."""

import itertools

from contestants import SPEED
from race import Race
from record import Record, options, platform

from gruflax.bench.case import FORWARD, GPU_SHAPES, VALUE_AND_GRAD, Case


DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Runs the stage."""
    chosen = options()
    shapes = ((3, 6, 4, 5),) if chosen.dry else GPU_SHAPES
    race = Race(SPEED, Record("speed", chosen.folder), chosen.dry, 225)
    # Training first, and every shape before the next kind of work: the end may come early.
    for mode, dtype, shape in itertools.product((VALUE_AND_GRAD, FORWARD), DTYPES, shapes):
        case = Case(*shape, dtype, device=platform(chosen.dry))
        if race.left() > 5:
            race.run(case, mode, 0.2 if chosen.dry else 1.5)
        else:
            race.skip(case, mode)


if __name__ == "__main__":
    main()
