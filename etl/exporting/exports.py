"""An export: the tables of one snapshot -> files at a place, and their manifest, which is written last."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal

import msgspec
import psycopg
import structlog

from etl.database.snapshots import one_snapshot
from etl.errors import EtlError, UsageError
from etl.exporting import changes, manifest, subjects, tables
from etl.exporting.changes import Changes
from etl.exporting.freshness import Freshness
from etl.exporting.manifest import File, Manifest, Table
from etl.exporting.places import SPOOL, Place
from etl.exporting.server_columns import NO_MONTH
from etl.exporting.subjects import Subject
from etl.exporting.tables import Destination, Written
from etl.precalculation import reading
from etl.quick_dataclasses import dataclass
from etl.version import __version__

Format = Literal["parquet", "csv", "duckdb", "arrow"]

log = structlog.get_logger(__name__)


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
    if request.format == "duckdb" and (request.by_month or request.since_last):
        raise UsageError("a database of DuckDB is one file that is written as a whole: no --partition, no --since-last")
    if request.format != "csv":
        # Half of the time of an export that writes little; the server answers meanwhile.
        Thread(target=import_module, args=["etl.exporting.blocks"]).start()
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
        export = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self._destination = Destination(
            export=export, format=request.format, begun=place.begun, completed=self._completed
        )

    def write(self, described: Sequence[Subject]) -> Manifest:
        """Write the tables, or what has changed of them; return the manifest of the export."""
        read_at = reading.read_at(self._connection)
        fresh = Freshness(self._connection)
        if self._changes is not None:
            self._changes.begin()
        if self._request.format == "duckdb":
            entries, database_file = self._database(described, fresh)
        else:
            entries, database_file = self._tables(described, fresh), None
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
            database_file=database_file,
        )

    def _tables(self, described: Sequence[Subject], fresh: Freshness) -> list[Table]:
        entries = []
        for subject in described:
            of_table = fresh.of(subject)
            entries.append(_entry(subject, self._written(subject, of_table.get("version")), of_table))
        return entries

    def _database(self, described: Sequence[Subject], fresh: Freshness) -> tuple[list[Table], File]:
        """Write the tables as files of Parquet beside the database, of which it is made; these are removed."""
        from etl.exporting import database_file  # noqa: PLC0415 - it needs duckdb

        name = f"{self._destination.export}.duckdb"
        path = self._place.begun(name)
        with TemporaryDirectory(prefix=SPOOL, dir=path.parent) as folder:
            self._destination = Destination(
                export=self._destination.export,
                format="parquet",
                begun=lambda file: Path(folder) / file,
                completed=lambda file: file,
            )
            tables = self._tables(described, fresh)
            file = database_file.make(path, name, tables, Path(folder))
        self._place.completed(name)
        return [msgspec.structs.replace(table, files=[]) for table in tables], file

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
