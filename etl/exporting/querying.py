"""SQL over an export by DuckDB, with the names of PostgreSQL. Reads the files that the manifest names, and no server.

Needs duckdb, of the extra `duckdb`.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, TypeVar

import msgspec

from etl import queries
from etl.errors import SourceError, UsageError
from etl.exporting import manifest
from etl.exporting.manifest import Manifest, Table
from etl.exporting.places import Folder, Place
from etl.quick_dataclasses import dataclass

_SQL = queries.load("duckdb")
_TRIES = 3

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The rows of an answer, and the tables of the export that it read."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    export: Manifest
    tables: list[Table]

    @property
    def freshness(self) -> dict[str, Any]:
        """How fresh the answer is: the instant of the export, and of each table the end of the newest run in it."""
        return {
            "export": self.export.export,
            "read_at": self.export.read_at,
            "tables": {
                table.table: {"facts_through": table.facts_through, "pending_buckets": table.pending_buckets}
                for table in self.tables
            },
        }


def answer(place: Place, query: str) -> Answer:
    """Answer a query from the last export at a place; raises what `read` does."""
    return read(place, lambda connection, export: _answer(connection, export, query))


def read(place: Place, work: Callable[[Any, Manifest], Result]) -> Result:
    """Return the result of some work with a connection of DuckDB that has the tables of the last export at a place.

    The work is done again when another export has replaced the files meanwhile. Raises UsageError without an export,
    and for a query that DuckDB refuses; SourceError when a file is missing.
    """
    if find_spec("duckdb") is None or find_spec("pyarrow") is None:
        raise UsageError(
            "to read an export duckdb and pyarrow are needed, which are not installed",
            hint="pip install duckdb pyarrow",
        )
    import duckdb  # noqa: PLC0415 - an extra, of 60 MB

    tries = _TRIES
    while True:
        export = _export_at(place)
        try:
            with duckdb.connect() as connection:
                connection.execute(_SQL["settings"].as_string(None))
                _make_tables(connection, place, export)
                return work(connection, export)
        except (duckdb.IOException, FileNotFoundError) as error:
            tries -= 1
            # Another export may have replaced the files since the manifest was read.
            if not tries or _export_at(place).export == export.export:
                raise SourceError(
                    f"a file of the export in {place.name} cannot be read", hint=f"etl export --to {place.name}"
                ) from error
        except duckdb.Error as error:
            raise UsageError(f"the query cannot be answered: {_reason(error)}") from None


def _export_at(place: Place) -> Manifest:
    text = place.manifest()
    if text is None:
        raise UsageError(
            f"there is no export in {place.name}",
            hint=f"etl export --to {place.name}, or name the folder of one by --from",
        )
    export = manifest.decoded(text)
    if export is None:
        raise UsageError(
            f"another version of this tool wrote the export in {place.name}", hint=f"etl export --to {place.name}"
        )
    return export


def _answer(connection: Any, export: Manifest, query: str) -> Answer:
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise UsageError(f"expected one statement, got {len(statements)}")
    used = _tables_of(connection, query)
    rows = connection.execute(statements[0])
    columns = [column[0] for column in rows.description or ()]
    tables = [each for each in export.tables if each.table in used]
    return Answer(columns=columns, rows=values_of(rows), export=export, tables=tables)


def values_of(rows: Any) -> list[tuple[Any, ...]]:
    """Return rows of DuckDB as values of Python; pyarrow needs no package for time zones.

    Raises UsageError for a time that Python does not have.
    """
    table = rows.to_arrow_table()
    try:
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    except (OverflowError, ValueError):
        raise UsageError("a time is not in the years 1 to 9999", hint="cast it: ...::varchar") from None


def _tables_of(connection: Any, query: str) -> set[str]:
    """Return the qualified names of the tables that a query names."""
    [(text,)] = connection.execute(_SQL["syntax_tree"].as_string(None), [query]).fetchall()
    found = set()
    waiting = [msgspec.json.decode(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "BASE_TABLE":
                found.add(f"{node.get('schema_name')}.{node.get('table_name')}")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def _make_tables(connection: Any, place: Place, export: Manifest) -> None:
    """Make the tables of an export known by their names."""
    from etl.exporting import duckdb_tables  # noqa: PLC0415 - it needs duckdb

    if export.format == "csv":
        raise UsageError("an export as CSV has no types to answer a query", hint=f"etl export --to {place.name}")
    if export.format == "duckdb":
        if export.database_file is None or not isinstance(place, Folder):
            raise UsageError("a database of DuckDB is queried in a folder of this machine", hint="copy it to a folder")
        path = place.address(export.database_file.path)
        duckdb_tables.run(connection, _SQL["attach"].format(path=duckdb_tables.literal(path)))
        return
    duckdb_tables.make_schemas(connection, export.tables)
    if not isinstance(place, Folder):
        connection.register_filesystem(place.filesystem)
    for table in export.tables:
        paths = [place.address(file.path) for file in table.files]
        if export.format == "parquet" or not paths:
            duckdb_tables.make_view(connection, table, paths)
        else:
            duckdb_tables.make_view_of(connection, table, _dataset(place, paths))


def _dataset(place: Place, paths: Iterable[str]) -> Any:
    from pyarrow import dataset  # noqa: PLC0415 - it takes 0.2 s

    if isinstance(place, Folder):
        return dataset.dataset(list(paths), format="ipc")
    inside = [path.partition("://")[2] for path in paths]
    return dataset.dataset(inside, format="ipc", filesystem=place.filesystem)


def _reason(error: Exception) -> str:
    """Return why DuckDB refuses a query, without the values of rows: the errors of values quote them."""
    import duckdb  # noqa: PLC0415 - as above

    if isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException):
        return str(error).partition("\n")[0]
    return f"{type(error).__name__} of DuckDB"
