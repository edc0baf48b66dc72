"""An export: the tables of one snapshot -> files at a place, and their manifest, which is written last."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog

from etl import queries
from etl.database.snapshots import one_snapshot
from etl.errors import EtlError, UsageError
from etl.exporting import manifest, subjects, tables
from etl.exporting.manifest import Manifest, Table
from etl.exporting.places import Place
from etl.exporting.subjects import Subject
from etl.exporting.tables import Destination, Written
from etl.precalculation import reading
from etl.version import __version__

Format = Literal["parquet", "csv", "duckdb", "arrow"]

log = structlog.get_logger(__name__)

_SQL = queries.load("exporting")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export: these tables, or all; in which format; by month or not. `database` is its name for people."""

    tables: tuple[str, ...]
    format: Format
    by_month: bool
    database: str
    config_dir: Path


def export(connection: psycopg.Connection, request: ExportRequest, place: Place) -> Manifest:
    """Export tables as they are at one instant; return the manifest. The export replaces the one at its place.

    Raises UsageError when a table is missing or may not be read, BusyError when another export writes to the place, and
    OutputError when it cannot be written now.
    """
    require_packages(request.format)
    with place.held():
        before = _manifest_of(place)
        kept = before.files if before else []
        place.remove_all_but(file.path for file in kept)  # A killed export may have left some.
        try:
            with _one_snapshot(connection, subjects.chosen(connection, request.tables)) as names:
                written = _written(connection, request, place, names, before)
                place.published(file.path for file in written.files)
                place.write_manifest(manifest.encoded(written))
                kept = written.files
        finally:
            with suppress(EtlError):
                place.remove_all_but(file.path for file in kept)
    return written


def require_packages(format: Format) -> None:
    """Raise UsageError when the package for a format is not installed."""
    needed = {"parquet": ("pyarrow",), "arrow": ("pyarrow",), "duckdb": ("pyarrow", "duckdb"), "csv": ()}
    for package in needed[format]:
        if find_spec(package) is None:
            raise UsageError(f"{format} needs {package}, which is not installed", hint=f"pip install {package}")


def _manifest_of(place: Place) -> Manifest | None:
    text = place.manifest()
    return manifest.decoded(text) if text is not None else None


@contextmanager
def _one_snapshot(connection: psycopg.Connection, names: list[str]) -> Iterator[list[str]]:
    """Let all statements see the tables at one instant."""
    try:
        with one_snapshot(connection, names):
            yield names
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise UsageError(f"the tables cannot be read: {error.diag.message_primary}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise UsageError(
            f"the user {user} may not read the tables: {error.diag.message_primary}",
            hint=f"grant etl_analyst to {user}",
        ) from error


def _written(
    connection: psycopg.Connection,
    request: ExportRequest,
    place: Place,
    names: Sequence[str],
    before: Manifest | None,
) -> Manifest:
    identifier = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    destination = Destination(export=identifier, format=request.format, begun=place.begun, completed=place.completed)
    read_at = reading.read_at(connection)
    fresh = _Freshness(connection)
    described = subjects.described(connection, names, request.config_dir, by_month=request.by_month)
    entries = [
        _entry(subject, tables.write(connection, subject, destination), fresh.of(subject)) for subject in described
    ]
    run, facts_through = fresh.newest()
    return Manifest(
        export=identifier,
        previous=before.export if before else None,
        format=request.format,
        partition="month" if request.by_month else None,
        tool=__version__,
        database=request.database,
        read_at=read_at,
        run=run,
        facts_through=facts_through,
        tables=entries,
    )


def _entry(subject: Subject, written: Written, fresh: Mapping[str, Any]) -> Table:
    """Return the entry of a table in the manifest, and log it."""
    entry = Table(
        table=subject.name,
        comment=subject.comment,
        rows=sum(file.rows for file in written.files),
        columns=written.columns,
        files=written.files,
        month_of=subject.month_of.name if subject.month_of else None,
        **fresh,
    )
    log.info("table_exported", table=entry.table, rows=entry.rows, files=len(entry.files))
    for column in entry.columns:
        if column.infinite_as_null:
            log.warning("times_not_in_export", table=entry.table, column=column.name, values=column.infinite_as_null)
    return entry


class _Freshness:
    """How fresh the tables are in the snapshot of a transaction, as far as the user may know."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        [(self._knows_runs,)] = connection.execute(_SQL["ledger_is_readable"]).fetchall()
        [(knows_aggregates,)] = connection.execute(_SQL["freshness_is_readable"]).fetchall()
        rows = queries.rows(connection, _SQL["freshness"]) if knows_aggregates else []
        self._aggregates: dict[str, dict[str, Any]] = {f"analytics.{row.pop('aggregate')}": row for row in rows}

    def of(self, subject: Subject) -> dict[str, Any]:
        """Return what the entry of a table says."""
        if subject.name in self._aggregates:
            return self._aggregates[subject.name]
        if not subject.datasets:
            return {}
        run, facts_through = self.newest(list(subject.datasets))
        return {"run": run, "facts_through": facts_through}

    def newest(self, datasets: list[str] | None = None) -> tuple[str | None, datetime | None]:
        """Return the finished run that ended last, of some datasets or of all, and its end."""
        if not self._knows_runs:
            return None, None
        row = self._connection.execute(_SQL["newest_run"], {"datasets": datasets}).fetchone()
        return row or (None, None)


def summary(written: Manifest, place: Place) -> dict[str, Any]:
    """Return the result of an export as `--json` prints it."""
    return {
        "kind": "export",
        "export": written.export,
        "to": place.name,
        "format": written.format,
        "read_at": written.read_at,
        "run": written.run,
        "facts_through": written.facts_through,
        "rows": written.rows,
        "files": len(written.files),
        "bytes": sum(file.bytes for file in written.files),
        "tables": {table.table: table.rows for table in written.tables},
    }
