"""Runs the demo."""

from gruflax.options import exit_on_interrupt


if __name__ == "__main__":
    exit_on_interrupt("gruflax.demo")
    # Imported after the handler is set, so that Ctrl-C ends it quietly from the start.
    from gruflax.demo.command import main

    main()
