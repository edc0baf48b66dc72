"""Batch ETL of logistics JSON into PostgreSQL by COPY: the commands as functions in Python."""

from typing import TYPE_CHECKING, Any

from etl.version import __version__

if TYPE_CHECKING:
    from etl.library import EtlError, Loaded, Replays, load, precalculate, replay

__all__ = ["EtlError", "Loaded", "Replays", "__version__", "load", "precalculate", "replay"]


def __dir__() -> list[str]:
    """Return all names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a function when a program first uses it: the command line starts without it."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'etl' has no attribute {name!r}")
    from etl import library  # noqa: PLC0415 - `import etl` must stay cheap

    return getattr(library, name)
