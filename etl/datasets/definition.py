"""The values of a definition: a dataset, its tables and their columns. Nothing here reads or writes."""

import hashlib
import re
from typing import Literal

import msgspec
from psycopg import sql

from etl.datasets import paths
from etl.datasets.types import ColumnType, ServerType, type_of
from etl.settings import Mode, OnDuplicate, OnNul, OnUnknown

LINEAGE = ("etl_run", "etl_batch", "etl_place")

DIGEST = "etl_digest"
"""The column with the digest of the record that a row was made of: a record with the same digest is unchanged."""

PartitionEvery = Literal["month", "day"]

SOURCE = "$source"
"""As the value of a column: the name of the source of the record."""


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column: the path of its value in the record (or in the element of `each`), its type and its checks.

    A value at `other_path` comes before that at `path`; no definition names one.
    """

    type: str
    name: str = ""
    path: str = ""
    other_path: str = ""
    value: str | None = None
    match: str | None = None
    required: bool = False
    trim: bool = False
    exact: bool = False
    null_if: tuple[str | bool | int | float | tuple[()], ...] = ()
    default: str | bool | int | float | None = None
    min: int | float | str | None = None
    above: int | float | str | None = None
    max: int | float | str | None = None
    max_length: int | None = None
    one_of: tuple[str, ...] = ()
    timezone: str | None = None
    formats: tuple[str, ...] = ()
    unwrap: Literal["mongo", "dynamodb"] | None = None
    json: bool = False
    decimal: Literal[",", "."] | None = None
    true: tuple[str | int, ...] = ()
    false: tuple[str | int, ...] = ()
    misfits_to: str | None = None
    keep_first: bool = False
    comment: str | None = None

    @property
    def is_wrapped(self) -> bool:
        """Whether its values come in another writing, which is rewritten before they are converted."""
        return bool(self.unwrap or self.json or self.decimal or self.true or self.false)

    @property
    def value_path(self) -> paths.ValuePath:
        """The path in its parts."""
        return paths.parse(self.path)

    @property
    def column_type(self) -> ColumnType:
        """The entry of its type in the table of types."""
        return type_of(self.type)

    @property
    def names_of_first(self) -> tuple[str, str, str]:
        """The columns beside it with its first value, and with the `newest_by` and the place of that version."""
        name = f"etl_first_{self.name}"
        return name, f"{name}_version", f"{name}_place"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition of a table on an object: the object has one of these values at the path."""

    path: str
    values: tuple[str | bool | int | float, ...]

    @property
    def value_path(self) -> paths.ValuePath:
        """The path in its parts."""
        return paths.parse(self.path)


class Table(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of a dataset; `each` are the paths of the arrays whose elements become its rows, outer array first.

    `history`: the versions of its rows that end are kept in another table. `has_digest`: a load sends the digest of
    each record; the table in the database decides it, and no definition. `deletes`: its rows are the keys that records
    delete. `partition_by`: the column of time by whose months or days the server divides the table; `partition_hash`:
    into how many partitions it divides the table by the hash of the key.
    """

    name: str
    columns: tuple[Column, ...]
    each: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    index: tuple[tuple[str, ...], ...] = ()
    comment: str | None = None
    history: bool = False
    has_digest: bool = False
    deletes: bool = False
    partition_by: str | None = None
    partition_every: PartitionEvery = "month"
    partition_hash: int | None = None

    @property
    def lineage(self) -> tuple[str, ...]:
        """The columns that each row has beside those of the definition."""
        return (*LINEAGE, DIGEST) if self.has_digest else LINEAGE

    @property
    def schema(self) -> str:
        """The schema in the name of the table."""
        return self.name.split(".")[0]

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name as an SQL identifier."""
        return sql.Identifier(*self.name.split("."))

    @property
    def quoted(self) -> str:
        """The qualified name as text that the server can read; it keeps capitals."""
        return self.identifier.as_string(None)

    @property
    def arrays_text(self) -> str:
        """The arrays as a message names them, the inner one first."""
        return ", each of ".join(reversed(self.each))

    def column(self, name: str) -> Column | None:
        """Return the column of that name, or None if there is none."""
        return next((column for column in self.columns if column.name == name), None)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A named description of records and of the tables that they become.

    A record becomes one row: in the first table without `each` whose `where` holds for the record. The elements of its
    arrays become the rows of the tables with `each`. `document` are the members of the document above the records of a
    source that the columns take, each with its value as JSON.
    """

    name: str
    records: str
    mode: Mode
    key: tuple[str, ...]
    newest_by: str | None
    tables: tuple[Table, ...]
    path: str
    on_nul: OnNul = "reject"
    on_duplicate: OnDuplicate | None = None
    on_unknown: OnUnknown = "warn"
    document: tuple[tuple[str, str], ...] = ()

    @property
    def hash(self) -> str:
        """A digest of everything that decides which rows a record becomes: no comment, index or order of columns."""
        tables = [
            msgspec.structs.replace(
                table,
                comment=None,
                index=(),
                history=False,
                has_digest=False,
                partition_by=None,
                partition_every="month",
                partition_hash=None,
                columns=tuple(
                    msgspec.structs.replace(column, comment=None, keep_first=False)
                    for column in sorted(table.columns, key=lambda column: column.name)
                ),
            )
            for table in self.tables
        ]
        content = msgspec.json.encode((self.records, self.key, self.newest_by, tables), order="deterministic")
        # An option counts only if it changes rows; an option with its default value leaves older digests as they are.
        content += b"strip" if self.on_nul == "strip" else b""
        content += b"reject" if self.on_unknown == "reject" else b""
        content += f" on_duplicate={self.on_duplicate}".encode() if self.on_duplicate else b""
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def digest_definition(self) -> int:
        """The hash of the definition, as a signed number of 64 bits, that the digests of records are made with.

        A policy for duplicates changes no digest: it does not change what a record becomes.
        """
        number = int(msgspec.structs.replace(self, on_duplicate=None).hash, 16)
        return number - (1 << 64) if number >> 63 else number

    @property
    def deletions(self) -> tuple[int, Table] | None:
        """The table of the keys that records delete, with its number; None: no record deletes. It is the last one."""
        last = len(self.tables) - 1
        return (last, self.tables[last]) if self.tables and self.tables[last].deletes else None

    @property
    def document_paths(self) -> tuple[str, ...]:
        """The paths of the columns that take members of the document above the records; none once it is known."""
        columns = [column for table in self.tables for column in table.columns if column.value is None]
        return tuple(dict.fromkeys(column.path for column in columns if column.value_path.sign == "$"))

    @property
    def has_server_types(self) -> bool:
        """Whether a column has a type that only the server knows."""
        return any(isinstance(column.column_type, ServerType) for table in self.tables for column in table.columns)

    @property
    def record_tables(self) -> tuple[Table, ...]:
        """The tables without `each`: a record becomes a row of one of them."""
        return tuple(table for table in self.tables if not table.each)

    @property
    def has_history(self) -> bool:
        """Whether a table keeps the versions of its rows that end."""
        return any(table.history for table in self.tables)

    @property
    def digested_table(self) -> Table | None:
        """The table whose rows may have the digest of their record: the only one of records, if they have a key."""
        tables = [table for table in self.record_tables if not table.deletes]
        return tables[0] if self.key and len(tables) == 1 else None

    def with_digests(self) -> "Dataset":
        """Return the definition for a database whose table of records takes digests."""
        tables = tuple(
            msgspec.structs.replace(table, has_digest=True) if table is self.digested_table else table
            for table in self.tables
        )
        return msgspec.structs.replace(self, tables=tables)

    @property
    def has_digests(self) -> bool:
        """Whether a load sends the digest of each record."""
        return any(table.has_digest for table in self.tables)

    def of_source(self, name: str) -> "Dataset":
        """Return the definition for a source: columns with `$source` get their value from the name of the source."""
        return msgspec.structs.replace(
            self,
            tables=tuple(
                msgspec.structs.replace(table, columns=tuple(_with_source(column, name) for column in table.columns))
                for table in self.tables
            ),
        )


def _with_source(column: Column, source: str) -> Column:
    if column.value != SOURCE:
        return column
    if column.match is None:
        return msgspec.structs.replace(column, value=source)
    match = re.search(column.match, source)
    value = match[match.re.groups] if match else None
    if value is None:
        return msgspec.structs.replace(column, value="", null_if=("",), match=None)
    return msgspec.structs.replace(column, value=value, match=None)
