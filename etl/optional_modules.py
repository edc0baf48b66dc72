"""Modules that a library imports where they are installed, and that this tool does not need: they cost time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(module: str) -> Iterator[None]:
    """Hide an optional module from an import."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # for the import system: not installed
    try:
        yield
    finally:
        del sys.modules[module]
