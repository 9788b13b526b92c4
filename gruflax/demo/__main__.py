"""Runs the demo."""

from gruflax.options import exit_on_interrupt


if __name__ == "__main__":
    exit_on_interrupt("gruflax.demo")
    # Only now: what it imports takes a second, and may be interrupted too.
    from gruflax.demo.command import main

    main()
