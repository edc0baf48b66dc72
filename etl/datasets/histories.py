"""Tables that keep the versions of their rows (`history`): what the table of the versions is called. Pure."""

from collections.abc import Iterator

from psycopg import sql

from etl.datasets.definition import Dataset, Table
from etl.datasets.problems import NAME_LENGTH

VALID_FROM = "etl_valid_from"
"""The column of a table with history that says since when the table has shown the row."""

ADDED = ("valid_from", "valid_to", "ended_by")
"""The columns that a history has beside those of its table."""

_ENDING = "_history"


def kept_tables(dataset: Dataset) -> Iterator[tuple[Table, tuple[Table, ...]]]:
    """Yield each table with history, and the tables of its child rows, whose versions are kept, too."""
    for table in dataset.tables:
        if table.history:
            yield table, tuple(child for child in dataset.tables if child.each)


def name_of(table: Table) -> str:
    """Return the name of the table that keeps the versions of a table."""
    return f"{table.name}{_ENDING}"


def identifier_of(table: Table) -> sql.Identifier:
    """Return the name of the table that keeps the versions of a table, as an SQL identifier."""
    return sql.Identifier(*name_of(table).split("."))


def tables_of(dataset: Dataset) -> list[str]:
    """Return the names of the tables that keep versions."""
    return [name_of(table) for parent, children in kept_tables(dataset) for table in (parent, *children)]


def problems(dataset: Dataset) -> Iterator[str]:
    """Yield why the tables of a dataset cannot keep their versions; the dataset is right without them."""
    if not dataset.key:
        yield "history expects `key`: without one no row is a version of another"
    if dataset.mode == "replace":
        yield "history and mode replace exclude each other: merge keeps the versions that it ends"
    for table in dataset.tables:
        if table.history and table.each:
            yield f"table {table.name}: history belongs to the table of the records; their child rows are kept, too"
    names = {table.name for table in dataset.tables}
    for parent, children in kept_tables(dataset):
        for table in (parent, *children):
            name = name_of(table)
            if len(name.rpartition(".")[2].encode()) > NAME_LENGTH:
                yield f"history makes the table {name}, whose name is longer than {NAME_LENGTH} letters"
            if name in names:
                yield f"history makes the table {name}, and the definition has one of this name"
            for column in table.columns:
                if column.name in {*ADDED, VALID_FROM}:
                    yield f"table {table.name}, column {column.name}: a history has a column of this name"
