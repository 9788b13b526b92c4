"""Stage 4: eight vmapped sets of parameters, and a step in the user's own scan."""

from contestants import STEPS, VMAPPED
from race import Race
from record import Record, options

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD


if __name__ == "__main__":
    chosen = options()
    race = Race((*VMAPPED, *STEPS), Record("members", chosen.folder), chosen.dry, 50)
    race.run_all([((16, 64, 32, 64), "float32", mode) for mode in (VALUE_AND_GRAD, FORWARD)], 3.0)
