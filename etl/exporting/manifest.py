"""The manifest of an export: what is in it, of which instant, and the digest of each file. Pure.

It is written last: what it names is complete. Programs that read an export should read the files that it names.
"""

import datetime as dt

import msgspec

NAME = "manifest.json"
LAYOUT = 1


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its path in the export, its month, and what is in it. `month` is None where a table has one file."""

    path: str
    month: str | None
    rows: int
    bytes: int
    sha256: str


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column: its type in PostgreSQL, the type that is stored, and infinite times that became null."""

    name: str
    type: str
    stored: str
    comment: str = ""
    infinite_as_null: int = 0


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table: its files, and how fresh its rows are. `month_of` is the column by which it is divided into files.

    Of an aggregate `version` rises when its rows change, and `pending_buckets` were to be recomputed at the snapshot.
    """

    table: str
    comment: str
    rows: int
    columns: list[Column]
    files: list[File]
    month_of: str | None = None
    run: str | None = None
    facts_through: dt.datetime | None = None
    version: int | None = None
    pending_buckets: int | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An export: one snapshot of all its tables, read at one instant. `run` and `facts_through` are of all facts.

    `previous` is the export that was there before, of which unchanged files stay. `database_file` is the one file of an
    export as a database of DuckDB.
    """

    layout: int = LAYOUT
    export: str
    previous: str | None
    format: str
    partition: str | None
    tool: str
    database: str
    read_at: dt.datetime
    run: str | None
    facts_through: dt.datetime | None
    tables: list[Table]
    database_file: File | None = None

    @property
    def rows(self) -> int:
        """The number of rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def files(self) -> list[File]:
        """The files of all tables."""
        of_tables = [file for table in self.tables for file in table.files]
        return [*of_tables, self.database_file] if self.database_file else of_tables

    def table(self, name: str) -> Table | None:
        """Return a table by its name."""
        return next((table for table in self.tables if table.table == name), None)


def encoded(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


_DECODER = msgspec.json.Decoder(Manifest)


def decoded(text: bytes) -> Manifest | None:
    """Return the manifest of a text, or None when another version of this tool wrote it."""
    try:
        manifest = _DECODER.decode(text)
    except msgspec.MsgspecError:
        return None
    return manifest if manifest.layout == LAYOUT else None
