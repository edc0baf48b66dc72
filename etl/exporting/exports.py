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
from etl.exporting import changes, manifest, subjects, tables
from etl.exporting.changes import Changes
from etl.exporting.manifest import File, Manifest, Table
from etl.exporting.places import Place
from etl.exporting.server_columns import NO_MONTH
from etl.exporting.subjects import Subject
from etl.exporting.tables import Destination, Written
from etl.precalculation import reading
from etl.version import __version__

Format = Literal["parquet", "csv", "duckdb", "arrow"]

log = structlog.get_logger(__name__)

_SQL = queries.load("exporting")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export: these tables, or all; in which format; by month; all rows, or what changed since last time."""

    tables: tuple[str, ...]
    format: Format
    by_month: bool
    since_last: bool
    database: str
    config_dir: Path

    @property
    def partition(self) -> str | None:
        """The name of the division in the manifest."""
        return "month" if self.by_month else None


def export(connection: psycopg.Connection, request: ExportRequest, place: Place) -> Manifest:
    """Export tables as they are at one instant; return the manifest. The export replaces the one at its place.

    Raises UsageError when a table is missing or may not be read, BusyError when another export writes to the place, and
    OutputError when it cannot be written now.
    """
    require_packages(request.format)
    with place.held(), _explained(connection):
        before = _manifest_of(place)
        kept = before.files if before else []
        place.remove_all_but(file.path for file in kept)  # A killed export may have left some.
        described = subjects.described(
            connection, subjects.chosen(connection, request.tables), request.config_dir, by_month=request.by_month
        )
        noted = _changes(connection, request, place, before, described)
        try:
            with one_snapshot(connection, [subject.name for subject in described]):
                written = _Writer(connection, request, place, before, noted).write(described)
                old = {file.path for file in kept}
                place.published(file.path for file in written.files if file.path not in old)
                place.write_manifest(manifest.encoded(written))
                kept = written.files
                if noted is not None:
                    noted.record(written.export)
        finally:
            with suppress(EtlError):
                place.remove_all_but(file.path for file in kept)
    return written


def _changes(
    connection: psycopg.Connection,
    request: ExportRequest,
    place: Place,
    before: Manifest | None,
    described: Sequence[Subject],
) -> Changes | None:
    """Have the changes of the tables noted, where an export is to write only them."""
    if not request.since_last:
        return None
    if before is not None and (before.format, before.partition) != (request.format, request.partition):
        before = None
    noted = Changes(connection, place.identity, before)
    noted.register(described)
    return noted


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
def _explained(connection: psycopg.Connection) -> Iterator[None]:
    """Turn errors that a person must put right into one with the remedy."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise UsageError(f"the tables cannot be read: {error.diag.message_primary}", hint="etl db migrate") from error
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise UsageError(
            f"the user {user} may not read the tables: {error.diag.message_primary}",
            hint=f"grant etl_analyst to {user}",
        ) from error


class _Writer:
    """Writes the tables of one export, in the transaction of its snapshot."""

    def __init__(
        self,
        connection: psycopg.Connection,
        request: ExportRequest,
        place: Place,
        before: Manifest | None,
        noted: Changes | None,
    ) -> None:
        self._connection = connection
        self._request = request
        self._place = place
        self._before = before
        self._changes = noted
        self._old: dict[tuple[str, str], File] = {}
        if noted is not None and before is not None:
            sizes = place.sizes()
            present = [file for file in before.files if sizes.get(file.path) == file.bytes]
            self._old = {(_folder(file), file.sha256): file for file in present}
        self._destination = Destination(
            export=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            format=request.format,
            begun=place.begun,
            completed=self._completed,
        )

    def write(self, described: Sequence[Subject]) -> Manifest:
        """Write the tables, or what has changed of them; return the manifest of the export."""
        read_at = reading.read_at(self._connection)
        fresh = Freshness(self._connection)
        if self._changes is not None:
            self._changes.begin()
        entries = []
        for subject in described:
            of_table = fresh.of(subject)
            entries.append(_entry(subject, self._written(subject, of_table.get("version")), of_table))
        run, facts_through = fresh.newest()
        return Manifest(
            export=self._destination.export,
            previous=self._before.export if self._before else None,
            format=self._request.format,
            partition=self._request.partition,
            tool=__version__,
            database=self._request.database,
            read_at=read_at,
            run=run,
            facts_through=facts_through,
            tables=entries,
        )

    def _written(self, subject: Subject, version: int | None) -> Written:
        """Write the months of a table that have changed, or all of it."""
        ranges = self._changes.take(subject, version) if self._changes is not None else None
        before = self._before.table(subject.name) if self._before else None
        if ranges is None or before is None or not all(self._has(file) for file in before.files):
            return tables.write(self._connection, subject, self._destination)
        if not ranges and (subject.month_of is None or version is not None):
            return Written(files=before.files, columns=before.columns)
        rows = changes.condition(subject, ranges)
        written = tables.write_changed(self._connection, subject, self._destination, before, rows)
        if written is None:
            log.info("types_changed", table=subject.name)
            return tables.write(self._connection, subject, self._destination)
        stay = [
            file
            for file in before.files
            if file.month is not None and file.month != NO_MONTH and not changes.is_within(file.month, ranges)
        ]
        files = sorted([*stay, *written.files], key=lambda file: (file.month or "", file.path))
        return Written(files=files, columns=written.columns)

    def _has(self, file: File) -> bool:
        return (_folder(file), file.sha256) in self._old

    def _completed(self, file: File) -> File:
        """Take a file, unless the export before has the same one."""
        old = self._old.get((_folder(file), file.sha256))
        if old is not None:
            self._place.begun(file.path).unlink()
            return old
        self._place.completed(file.path)
        return file


def _folder(file: File) -> str:
    return file.path.rpartition("/")[0]


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


class Freshness:
    """How fresh the tables are in the snapshot of a transaction, as far as the user may know."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._knows_runs = self._is_readable("etl", "runs")
        is_known = self._is_readable("analytics", "freshness")
        rows = queries.rows(connection, _SQL["freshness"]) if is_known else []
        self._aggregates: dict[str, dict[str, Any]] = {f"analytics.{row.pop('aggregate')}": row for row in rows}

    def of(self, subject: Subject) -> dict[str, Any]:
        """Return what the entry of a table says."""
        if subject.name in self._aggregates:
            return self._aggregates[subject.name]
        if not subject.datasets:
            return {}
        run, facts_through = self.newest(list(subject.datasets))
        return {"run": run, "facts_through": facts_through}

    def _is_readable(self, schema: str, table: str) -> bool:
        row = self._connection.execute(_SQL["is_readable"], {"schema": schema, "table": table}).fetchone()
        return bool(row and row[0])

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
