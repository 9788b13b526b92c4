"""Stage 4: eight vmapped sets of parameters, and a step in the user's own scan."""

from contestants import STEPS, VMAPPED
from race import Race
from record import Record, options, platform

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD, Case


def main() -> None:
    """Runs the stage."""
    chosen = options()
    shape = (3, 6, 4, 5) if chosen.dry else (16, 64, 32, 64)
    seconds = 0.2 if chosen.dry else 3.0
    race = Race((*VMAPPED, *STEPS), Record("members", chosen.folder), chosen.dry, 50)
    for mode in (VALUE_AND_GRAD, FORWARD):
        race.run(Case(*shape, device=platform(chosen.dry)), mode, seconds)


if __name__ == "__main__":
    main()
