"""One table of an export: its rows in the snapshot of a transaction -> files, by month or in one.

The columns are carried in their plain form first, with digits of a sample. When a value does not fit, the table is read
again: with the digits that all values need, then in the guarded form, which holds each value.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import InternalError
from etl.exporting import manifest
from etl.exporting.files import CsvFile, HashedFile
from etl.exporting.manifest import File
from etl.exporting.months import Months, RowsFile
from etl.exporting.receiving import Copied
from etl.exporting.server_columns import ARRAYS, TIMES, ServerColumn
from etl.exporting.stages import each_beside
from etl.exporting.subjects import Subject
from etl.quick_dataclasses import dataclass

if TYPE_CHECKING:
    from etl.exporting.columns import CarriedColumn, Digits

Rows = TypeVar("Rows")

_SQL = queries.load("exporting")
_COMMA = sql.SQL(", ")
_SAMPLED_PAGES = 500
_ALL_ROWS = sql.SQL("true")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the files of an export go: `begun` gives the path for a new one, `completed` takes it when it is whole.

    `completed` returns the entry for the manifest: that of an older file where this has the same content.
    """

    export: str
    format: str
    begun: Callable[[str], Path]
    completed: Callable[[File], File]

    def name(self, subject: Subject, month: str | None, number: int = 0) -> str:
        """Return the name of a file: the table, its month, and the export that wrote it."""
        folder = subject.name.replace("/", "%2F")
        if month is not None:
            folder += f"/{subject.months_folder}={month}"
        return f"{folder}/{self.export}{f'-{number}' if number else ''}.{self.format}"


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a table, and its columns as they are stored."""

    files: list[File]
    columns: list[manifest.Column] = field(default_factory=list)


def write(
    connection: psycopg.Connection, subject: Subject, destination: Destination, condition: sql.Composable = _ALL_ROWS
) -> Written:
    """Write the rows of a table that meet a condition."""
    if destination.format == "csv":
        return _written_as_csv(connection, subject, destination, condition)
    written = _first_fitting(_forms(connection, subject), connection, subject, destination, condition)
    if written is None:
        raise InternalError(f"expected the rows of {subject.name} in a form of its columns, got a value in none")
    return written


def write_changed(
    connection: psycopg.Connection,
    subject: Subject,
    destination: Destination,
    before: manifest.Table,
    condition: sql.Composable,
) -> Written | None:
    """Write the rows that meet a condition with the types that are stored already; None where a value does not fit."""
    if destination.format == "csv":
        return _written_as_csv(connection, subject, destination, condition)
    forms = _kept_forms(connection, subject, before)
    return _first_fitting(forms, connection, subject, destination, condition)


def _first_fitting(
    forms: Iterator[tuple[Sequence["CarriedColumn"], dict[str, int]]],
    connection: psycopg.Connection,
    subject: Subject,
    destination: Destination,
    condition: sql.Composable,
) -> Written | None:
    from etl.exporting.blocks import UnfitError  # noqa: PLC0415 - it needs pyarrow, which takes 0.2 s

    for carried, odd in forms:
        try:
            with connection.transaction():  # A COPY that is not read to its end fails its transaction.
                files = _written(connection, subject, destination, condition, carried)
        except UnfitError:
            continue
        columns = [
            manifest.Column(
                name=column.source.name,
                type=column.source.type,
                stored=str(column.stored),
                comment=column.source.comment,
                infinite_as_null=odd.get(column.source.name, 0) if column.source.kind in TIMES else 0,
            )
            for column in carried
        ]
        return Written(files=files, columns=columns)
    return None


def _forms(
    connection: psycopg.Connection, subject: Subject
) -> Iterator[tuple[Sequence["CarriedColumn"], dict[str, int]]]:
    """Yield the forms of the columns, the fastest first, each with the number of odd values by column."""
    from etl.exporting.columns import guarded, plain  # noqa: PLC0415 - it needs pyarrow

    sampled = digits(connection, subject, subject.columns, is_sampled=True)
    yield [plain(column, sampled.get(column.name)) for column in subject.columns], {}
    all_digits = digits(connection, subject, subject.columns, is_sampled=False)
    if all_digits != sampled:
        yield [plain(column, all_digits.get(column.name)) for column in subject.columns], {}
    odd = count_odd(connection, subject)
    yield [guarded(column, all_digits.get(column.name), odd.get(column.name, 0)) for column in subject.columns], odd


def _kept_forms(
    connection: psycopg.Connection, subject: Subject, before: manifest.Table
) -> Iterator[tuple[Sequence["CarriedColumn"], dict[str, int]]]:
    """Yield the forms that store the columns as they are stored already."""
    from etl.exporting.columns import kept  # noqa: PLC0415 - it needs pyarrow

    stored = {column.name: column.stored for column in before.columns}
    odd = {column.name: column.infinite_as_null for column in before.columns}
    if not any(odd.values()):
        yield [kept(column, stored[column.name], is_guarded=False) for column in subject.columns], {}
    yield (
        [kept(column, stored[column.name], is_guarded=True) for column in subject.columns],
        count_odd(connection, subject),
    )


def digits(
    connection: psycopg.Connection, subject: Subject, columns: Sequence[ServerColumn], *, is_sampled: bool
) -> dict[str, "Digits | None"]:
    """Return the digits of the numeric columns by name: declared, or as all values or those of a sample need them.

    None: a value has more than a decimal can hold, or is no number, so that the column is text.
    """
    from etl.exporting.columns import declared, needed  # noqa: PLC0415 - it needs pyarrow

    numeric = [column for column in columns if column.kind == "numeric"]
    found = {column.name: declared(column) for column in numeric}
    measured = numeric if not is_sampled else [column for column in numeric if found[column.name] is None]
    if not measured:
        return found
    row = connection.execute(
        _SQL["digits"].format(
            columns=_COMMA.join(_SQL["digits_of_column"].format(column=column.identifier) for column in measured),
            table=subject.identifier,
            sample=_sample(connection, subject) if is_sampled else sql.SQL(""),
        )
    ).fetchone()
    values = row or ()
    for place, column in enumerate(measured):
        before, after, has_others = values[3 * place : 3 * place + 3]
        if has_others or found[column.name] is None:
            found[column.name] = None if has_others else needed(before, after)
    return found


def _sample(connection: psycopg.Connection, subject: Subject) -> sql.Composable:
    [(pages,)] = connection.execute(_SQL["pages"], {"table": subject.identifier.as_string(None)}).fetchall()
    if pages is None or pages <= _SAMPLED_PAGES:
        return sql.SQL("")
    return _SQL["sample"].format(percent=sql.Literal(100 * _SAMPLED_PAGES / pages))


def count_odd(connection: psycopg.Connection, subject: Subject) -> dict[str, int]:
    """Count the values of each column that Arrow does not have, where there are such values."""
    kinds = dict.fromkeys(TIMES, "odd_time") | {"date": "odd_day", "time": "odd_time_of_day"}
    kinds |= dict.fromkeys(ARRAYS, "odd_array")
    counted = [column for column in subject.columns if column.kind in kinds]
    if not counted:
        return {}
    row = connection.execute(
        _SQL["odd"].format(
            columns=_COMMA.join(_SQL[kinds[column.kind]].format(column=column.identifier) for column in counted),
            table=subject.identifier,
        )
    ).fetchone()
    return dict(zip((column.name for column in counted), row or (), strict=True))


def _written(
    connection: psycopg.Connection,
    subject: Subject,
    destination: Destination,
    condition: sql.Composable,
    carried: Sequence["CarriedColumn"],
) -> list[File]:
    from etl.exporting.blocks import BlockReader  # noqa: PLC0415 - it needs pyarrow
    from etl.exporting.columns import schema_of  # noqa: PLC0415 - the same
    from etl.exporting.writing import ColumnarFile  # noqa: PLC0415 - the same

    schema = schema_of(carried, {"table": subject.name, "comment": subject.comment})

    def opened(file: HashedFile, name: str, month: str | None) -> ColumnarFile:
        return ColumnarFile(file, name, month, schema, destination.format)

    copied = _copied(connection, subject, destination, condition, [column.select for column in carried])
    return _stored(copied, subject, destination, opened, BlockReader(carried, schema).read)


def _written_as_csv(
    connection: psycopg.Connection, subject: Subject, destination: Destination, condition: sql.Composable
) -> Written:
    """Write the rows as the server writes them: a null is empty, an empty text is two quotes."""
    names = [column.identifier for column in subject.columns]
    header = b"".join(block.rows for block in Copied(connection, _copy("copy_header", subject, names, _ALL_ROWS)))

    def opened(file: HashedFile, name: str, month: str | None) -> CsvFile:
        return CsvFile(file, name, month, header)

    copied = _copied(connection, subject, destination, condition, names)
    files = _stored(copied, subject, destination, opened, lambda rows: rows)
    columns = [
        manifest.Column(name=column.name, type=column.type, stored="text", comment=column.comment)
        for column in subject.columns
    ]
    return Written(files=files, columns=columns)


def _stored(
    copied: Copied,
    subject: Subject,
    destination: Destination,
    opened: Callable[[HashedFile, str, str | None], RowsFile[Rows]],
    read: Callable[[bytes], Rows],
) -> list[File]:
    """Read the rows of COPY, and write each month to the files that `opened` makes."""
    numbers: dict[str | None, int] = {}

    def opened_next(month: str | None) -> RowsFile[Rows]:
        name = destination.name(subject, month, numbers.get(month, 0))
        numbers[month] = numbers.get(month, 0) + 1
        return opened(HashedFile(destination.begun(name)), name, month)

    months = Months(opened_next, is_divided=subject.month_of is not None)
    try:
        with closing(iter(copied)) as blocks:
            each_beside(blocks, read, lambda block, rows: months.write(block.month, rows))
        files = months.finish()
    except BaseException:
        months.abandon()
        raise
    if (stored := sum(file.rows for file in files)) != copied.rows:
        raise InternalError(f"expected {copied.rows} rows of {subject.name}, stored {stored}")
    return [destination.completed(file) for file in files]


def _copied(
    connection: psycopg.Connection,
    subject: Subject,
    destination: Destination,
    condition: sql.Composable,
    columns: Sequence[sql.Composable],
) -> Copied:
    if subject.month_of is None:
        return Copied(connection, _copy("copy", subject, columns, condition))
    day = _SQL["day"].format(column=subject.month_of.identifier)
    statement = _copy("copy", subject, [day, *columns], condition)
    return Copied(connection, statement, folder=destination.begun("rows").parent)


def without_month(column: ServerColumn) -> sql.Composable:
    """Return the condition of the rows without a month."""
    return _SQL["without_month"].format(column=column.identifier)


def _copy(
    statement: str, subject: Subject, columns: Sequence[sql.Composable], condition: sql.Composable
) -> sql.Composed:
    return _SQL[statement].format(columns=_COMMA.join(columns), table=subject.identifier, condition=condition)
