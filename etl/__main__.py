"""The program: `etl` and `python -m etl`."""

# Built in, as all that is imported here: `signal` itself is written in Python, and Ctrl-C would end its import in a
# traceback.
import _signal  # type: ignore[import-not-found] # only `signal` is described
import atexit
import gc
import os
import sys


def main() -> None:
    """Run the command line. A signal that comes while it is imported ends the process as any program, silently."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Python's own handler would print a traceback.
    gc.disable()  # Almost nothing of what is imported is ever freed. The command enables it again.
    ended: list[int] = []
    atexit.register(_leave, ended)  # Called last, because it is registered first.
    from etl import cli  # noqa: PLC0415 - after the lines before

    try:
        cli.main()
    except SystemExit as end:
        if isinstance(end.code, int):
            ended.append(end.code)
        raise


def _leave(ended: list[int]) -> None:
    """End the process with its exit code at once: to free each object takes a fifth of the time of a small load."""
    if not ended:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return  # Python reports it.
    os._exit(ended[0])


if __name__ == "__main__":
    main()
