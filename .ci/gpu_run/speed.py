"""Stage 3: forward and training at large shapes, float32 and bfloat16, against flax and torch."""

from contestants import SPEED
from race import Race
from record import Record, options, platform

from gruflax.bench.case import FORWARD, GPU_SHAPES, VALUE_AND_GRAD, Case


DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Runs the stage."""
    chosen = options()
    shapes = ((3, 6, 4, 5),) if chosen.dry else GPU_SHAPES
    race = Race(SPEED, Record("speed", chosen.folder), chosen.dry, 235)
    for shape in shapes:
        # The largest first: a device's peak only rises.
        for dtype, mode in ((d, m) for d in DTYPES for m in (VALUE_AND_GRAD, FORWARD)):
            if race.left() > 5:
                case = Case(*shape, dtype, device=platform(chosen.dry))
                race.run(case, mode, 0.2 if chosen.dry else 2.5)


if __name__ == "__main__":
    main()
