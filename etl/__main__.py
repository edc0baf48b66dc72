"""The program: `etl` and `python -m etl`."""

import signal


def main() -> None:
    """Run the command line. A signal that comes while it is imported ends the process as any program, silently."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would print a traceback.
    from etl import cli  # noqa: PLC0415 - after the line before

    cli.main()


if __name__ == "__main__":
    main()
