"""Batch ETL of logistics JSON into PostgreSQL by COPY: the commands as functions in Python."""

from etl.version import __version__

# Not imported from typing: Ctrl-C prints a traceback until the program handles signals, so each import before counts.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from etl.library import (
        Connection,
        Created,
        EtlError,
        FailedFile,
        FailedRecord,
        Failures,
        Loaded,
        Precalculated,
        Progress,
        Proposed,
        Replays,
        Runs,
        Undone,
        connect,
        create,
        failed,
        infer,
        load,
        precalculate,
        replay,
        runs,
        undo,
    )

__all__ = [
    "Connection",
    "Created",
    "EtlError",
    "FailedFile",
    "FailedRecord",
    "Failures",
    "Loaded",
    "Precalculated",
    "Progress",
    "Proposed",
    "Replays",
    "Runs",
    "Undone",
    "__version__",
    "connect",
    "create",
    "failed",
    "infer",
    "load",
    "precalculate",
    "replay",
    "runs",
    "undo",
]


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet, and no name that the module needs itself."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> object:
    """Import a function when a program first uses it: the command line starts without it."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'etl' has no attribute {name!r}")
    from etl import library  # noqa: PLC0415 - `import etl` must stay cheap

    return getattr(library, name)
