"""Types of a definition that only the server knows: whether it has them, and whether constants and defaults fit."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Final

import psycopg
from psycopg import sql

from etl import queries
from etl.database.sqlstates import code_of, condition, meaning
from etl.datasets import SOURCE, TYPES, Column, Dataset, Table, sql_type
from etl.datasets.types import ServerType
from etl.errors import DefinitionError

_SQL = queries.load("server_types")
_EXTENSIONS: Final[Mapping[str, str]] = {
    "vector": "vector",
    "halfvec": "vector",
    "sparsevec": "vector",
    "geometry": "postgis",
    "geography": "postgis",
    "citext": "citext",
    "hstore": "hstore",
    "ltree": "ltree",
}
"""Known types of extensions, each with its extension."""

_PACKAGES: Final[Mapping[str, str]] = {"vector": "pgvector", "postgis": "PostGIS"}
"""Extensions that are called otherwise by people."""

_UNKNOWN = frozenset({"42704", "3F000"})
_LESS_LIKELY = 0.75


def served_columns(dataset: Dataset) -> Iterator[tuple[Table, Column]]:
    """Yield the columns whose types only the server knows, with their tables."""
    for table in dataset.tables:
        for column in table.columns:
            if isinstance(column.column_type, ServerType):
                yield table, column


def require_types(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise DefinitionError if the server lacks a type of the definition, or refuses a constant or a default of it."""
    known: set[str] = set()
    for table, column in served_columns(dataset):
        where = f"{dataset.path}: table {table.name}, column {column.name}"
        if column.type not in known:
            _require_type(connection, column, where)
            known.add(column.type)
        is_compared = column.name in dataset.key or (column.name == dataset.newest_by and not table.each)
        if is_compared and _refusal(connection, "ordered", column):
            use = "a key column" if column.name in dataset.key else "the column of newest_by"
            raise DefinitionError(f"{where}: {use} cannot be {column.type}: the server has no order of its values")
        for option, value in (("value", column.value), ("default", column.default)):
            _require_value(connection, column, option, value, where)


def _require_type(connection: psycopg.Connection, column: Column, where: str) -> None:
    error = _refusal(connection, "null_of_type", column)
    if error is None:
        return
    code = code_of(error)
    if code in _UNKNOWN:
        raise DefinitionError(f"{where}: the server knows no type {column.type}", hint=_hint(connection, column.type))
    raise DefinitionError(
        f"{where}: the server refuses the type {column.type}: {condition(code or 'XX000')}, SQLSTATE {code}",
        hint="name it as a statement of PostgreSQL would: with its schema, unless that is public, and with its size",
    )


def _require_value(
    connection: psycopg.Connection, column: Column, option: str, value: str | float | None, where: str
) -> None:
    if value is None or value == SOURCE or value in column.null_if:
        return
    text = str(value).lower() if isinstance(value, bool) else str(value)
    error = _refusal(connection, "value_of_type", column, text)
    if error is not None:
        raise DefinitionError(f"{where}: the {option} does not fit: {condition(code_of(error) or 'XX000')}")


def _refusal(
    connection: psycopg.Connection, statement: str, column: Column, value: str | None = None
) -> psycopg.Error | None:
    """Run a statement about a type; return the error of the server, or None. An error of the world is raised."""
    query = _SQL[statement].format(type=sql_type(column.type), value=sql.Literal(value))
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(query)
    except psycopg.Error as error:
        if meaning(error) in {"away", "contended", "unexpected"}:
            raise
        return error
    return None


def _hint(connection: psycopg.Connection, name: str) -> str:
    bare = name.partition("(")[0].rstrip("[]0123456789 ").lower()
    extension = _EXTENSIONS.get(bare.rpartition(".")[2].strip('"'))
    if extension:
        return _hint_of_extension(connection, extension)
    known = [*TYPES, *(found for (found,) in connection.execute(_SQL["names"]))]
    close = difflib.get_close_matches(bare, known, n=1, cutoff=_LESS_LIKELY)
    if close:
        return f"did you mean {close[0]}?"
    return "an extension may be missing in the database (create extension ...), or the schema in the name of the type"


def _hint_of_extension(connection: psycopg.Connection, extension: str) -> str:
    """Return what makes the type of a known extension known to the server."""
    row = connection.execute(_SQL["extension"], {"name": extension}).fetchone()
    if row is None:
        package = _PACKAGES.get(extension, extension)
        return f"install {package} on the server, then: etl db psql -- -c 'create extension {extension}'"
    [schema] = row
    if schema is None:
        return f"etl db psql -- -c 'create extension {extension}' (as a superuser, or the owner of the database)"
    return f"the extension {extension} is in the schema {schema}: write the type with it, as in {schema}.{extension}"
