"""Runs the benchmark: `python -m gruflax.bench`."""

import sys

from gruflax.bench.command import main


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("gruflax.bench: interrupted")
