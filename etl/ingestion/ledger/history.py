"""What the ledger tells of past runs, and of those that go on: how they stand, what was refused, what to do next.

It only reads.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg

from etl import queries

_SQL = queries.load("history")

RunStatus = Literal["running", "loaded", "loaded_with_rejects", "incomplete", "aborted", "busy", "died"]
"""How a run stands now. `died`: its process ended without a word, and holds the source no more."""


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs are asked for: those that match all of it, at most `limit`."""

    run: str | None = None
    dataset: str | None = None
    status: RunStatus | None = None
    since: datetime | None = None
    limit: int = 1


def runs(connection: psycopg.Connection, wanted: RunFilter, here: Path) -> list[dict[str, Any]]:
    """List runs, the newest first; `next` is the command, asked in the folder `here`, that puts each right, or null."""
    return [row | {"next": _next(row, here)} for row in queries.rows(connection, _SQL["runs"], vars(wanted))]


def attempts(connection: psycopg.Connection, run: str) -> list[dict[str, Any]]:
    """List the attempts of a run, the first first."""
    return queries.rows(connection, _SQL["attempts"], {"run": run})


def faults(connection: psycopg.Connection, run: str) -> list[dict[str, Any]]:
    """Count the refused records of a run by what is wrong with them, the most frequent first.

    Of what an older version of this tool refused only the first fault of each file is known, and not where.
    """
    return queries.rows(connection, _SQL["faults"], {"run": run})


def _next(row: Mapping[str, Any], here: Path) -> str | None:
    """Return the command that an operator runs next, or None when nothing is left to do."""
    status: RunStatus = row["status"]
    if status == "running":
        return f"etl runs show {row['run']}"
    if status in {"loaded_with_rejects", "aborted"}:
        return f"etl failed list --run {row['run']}"
    if status == "loaded":
        return None
    return load_command(row, here)


def load_command(row: Mapping[str, Any], here: Path) -> str:
    """Return the command that goes on with a run, as a shell in the folder `here` takes it."""
    source = row["source"]
    words = ["etl", "load", row["dataset"], source if source == "-" or not source.startswith("-") else f"./{source}"]
    command = f"{shlex.join(words)} {row['options'] or ''}".rstrip()
    is_elsewhere = row["folder"] and row["folder"] != str(here)
    if is_elsewhere and source != "-" and not Path(source).is_absolute() and "://" not in source:
        command = f"cd {shlex.quote(row['folder'])} && {command}"
    return command
