"""Runs the benchmark."""

from gruflax.options import exit_on_interrupt


if __name__ == "__main__":
    exit_on_interrupt("gruflax.bench")
    # Imported after the handler is set, because the import takes a second.
    from gruflax.bench.command import main

    main()
