"""The version of this program; and the versions of packages, found without reading their descriptions."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_METADATA = "importlib.metadata"


class _Versions(ModuleType):
    """Takes the place of `importlib.metadata`: the name of a folder says the version of its package."""

    @staticmethod
    def version(package: str) -> str:
        """Return the version of an installed package."""
        begin = f"{package.replace('-', '_')}-"
        for folder in sys.path:
            names = os.listdir(folder) if os.path.isdir(folder) else ()  # noqa: PTH112, PTH208 - pathlib is not imported yet
            for name in names:
                if name.startswith(begin) and name.endswith(".dist-info"):
                    return name[len(begin) : -len(".dist-info")]
        found: str = _metadata().version(package)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(_metadata(), name)


def _metadata() -> ModuleType:
    if isinstance(sys.modules.get(_METADATA), _Versions):
        del sys.modules[_METADATA]
    return importlib.import_module(_METADATA)


@contextmanager
def quick_versions() -> Iterator[None]:
    """Let imported packages ask for versions without `importlib.metadata`, which imports all that reads e-mail.

    psycopg does, and nobody reads its version: a seventh of the time in which a command imports its modules.
    """
    sys.modules[_METADATA] = _Versions(_METADATA)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(_METADATA), _Versions):
            del sys.modules[_METADATA]
        if isinstance(vars(importlib).get("metadata"), _Versions):
            del importlib.metadata
