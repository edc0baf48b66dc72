"""What a definition is once it is read: a dataset with its tables and their columns. Values, and nothing else."""

import hashlib
import re

import msgspec
from psycopg import sql

from etl.datasets import paths
from etl.datasets.types import TYPES, ColumnType, Type
from etl.settings import Mode, OnDuplicate, OnNul, OnUnknown

LINEAGE = ("etl_run", "etl_batch", "etl_place")

SOURCE = "$source"
"""As the value of a column: the name of the source that its record is from."""


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column: where its value stands in the record (or in the element of `each`), its type and its checks."""

    type: Type
    name: str = ""
    path: str = ""
    value: str | None = None
    match: str | None = None
    required: bool = False
    trim: bool = False
    null_if: tuple[str | int | float, ...] = ()
    default: str | bool | int | float | None = None
    min: int | float | str | None = None
    above: int | float | str | None = None
    max: int | float | str | None = None
    max_length: int | None = None
    one_of: tuple[str, ...] = ()
    timezone: str | None = None
    formats: tuple[str, ...] = ()
    misfits_to: str | None = None
    comment: str | None = None

    @property
    def way(self) -> paths.ValuePath:
        """The path, read."""
        return paths.parse(self.path)

    @property
    def column_type(self) -> ColumnType:
        """The entry of its type in the table of types."""
        return TYPES[self.type]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What an object must hold for a table to take it: one of these values at a path."""

    path: str
    values: tuple[str | bool | int | float, ...]

    @property
    def way(self) -> paths.ValuePath:
        """The path, read."""
        return paths.parse(self.path)


class Table(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of a dataset; `each` are the paths of the arrays whose elements become its rows, outer one first."""

    name: str
    columns: tuple[Column, ...]
    each: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    index: tuple[tuple[str, ...], ...] = ()
    comment: str | None = None

    @property
    def schema(self) -> str:
        """The schema of its name."""
        return self.name.split(".")[0]

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted."""
        return sql.Identifier(*self.name.split("."))

    @property
    def quoted(self) -> str:
        """The qualified name as the server reads it in a text, capitals kept."""
        return self.identifier.as_string(None)

    @property
    def told_each(self) -> str:
        """The arrays for a person to read."""
        return ", each of ".join(reversed(self.each))

    def column(self, name: str) -> Column | None:
        """Return the column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A named description of records and of the tables that they become.

    A record is one row of the first table without `each` that takes it, and the elements of its arrays are the rows of
    the others.
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
    on_unknown: OnUnknown = "ignore"

    @property
    def hash(self) -> str:
        """A digest of all that decides which rows a record becomes: no comment, no index, no order of columns."""
        tables = [
            msgspec.structs.replace(
                table,
                comment=None,
                index=(),
                columns=tuple(
                    msgspec.structs.replace(column, comment=None)
                    for column in sorted(table.columns, key=lambda column: column.name)
                ),
            )
            for table in self.tables
        ]
        content = msgspec.json.encode((self.records, self.key, self.newest_by, tables), order="deterministic")
        # Only what changes rows counts, and nothing where it is as it always was.
        content += b"strip" if self.on_nul == "strip" else b""
        content += b"reject" if self.on_unknown == "reject" else b""
        content += f" on_duplicate={self.on_duplicate}".encode() if self.on_duplicate else b""
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def record_tables(self) -> tuple[Table, ...]:
        """The tables without `each`, of which a record is a row of one."""
        return tuple(table for table in self.tables if not table.each)

    def of_source(self, name: str) -> "Dataset":
        """Return the definition with what it takes from the name of a source filled in."""
        return msgspec.structs.replace(
            self,
            tables=tuple(
                msgspec.structs.replace(table, columns=tuple(_filled_in(column, name) for column in table.columns))
                for table in self.tables
            ),
        )


def _filled_in(column: Column, source: str) -> Column:
    if column.value != SOURCE:
        return column
    if column.match is None:
        return msgspec.structs.replace(column, value=source)
    found = re.search(column.match, source)
    value = found[found.re.groups] if found else None
    if value is None:
        return msgspec.structs.replace(column, value="", null_if=("",), match=None)
    return msgspec.structs.replace(column, value=value, match=None)
