"""Runs the benchmark."""

from gruflax.options import exit_on_interrupt


if __name__ == "__main__":
    exit_on_interrupt("gruflax.bench")
    # Only now: what it imports takes a second, and may be interrupted too.
    from gruflax.bench.command import main

    main()
