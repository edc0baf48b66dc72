"""The values that a definition makes of records, by an implementation of its grammar that is not the loader's."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from psycopg import sql

from etl.datasets import LINEAGE, Column, Dataset
from tests.support.faults import Connection

Record = dict[str, Any]

DOCUMENT = "$document."
"""How the path of a member of the document above the records begins."""

VALUE = "some value"
"""Any value that is not null."""


def means_none(value: Any, null_if: tuple[Any, ...]) -> bool:
    """Tell whether a value is one of those that mean none."""
    if isinstance(value, list):
        return not value and () in null_if
    return any(type(value) is type(none) and value == none for none in null_if)


def at(item: Any, path: str, outer: tuple[Any, ...], null_if: tuple[Any, ...] = ()) -> Any:
    """Return the value at a path of the definition, by an independent implementation of its grammar."""
    if path.startswith("^."):
        return at(outer[-1][0], path[2:], outer[:-1]) if path != "^.#" else outer[-1][1]
    if path == ".":
        return item
    if path == "@":
        return VALUE
    for name in names_in(path):
        if item is None or means_none(item, null_if):
            return None
        item = item.get(name)
    return item


def names_in(path: str) -> list[str]:
    """Return the names of a path, which may be in quotes."""
    names, rest = [], path
    while True:
        if rest.startswith('"'):
            name, end = json.JSONDecoder().raw_decode(rest)
        else:
            end = (rest + ".").index(".", 1)
            name = rest[:end]
        names.append(name)
        if end >= len(rest):
            return names
        rest = rest[end + 1 :]


def elements(record: Record, each: tuple[str, ...]) -> list[tuple[Any, int, tuple[Any, ...]]]:
    """Return the items of a table, each with its position and the items around it, and their positions."""
    found: list[tuple[Any, int, tuple[Any, ...]]] = [(record, 0, ())]
    for path in each:
        found = [
            (element, position, (*outer, (item, number)))
            for item, number, outer in found
            for position, element in enumerate(rows_of(at(item, path, ())), 1)
        ]
    return found


def rows_of(value: Any) -> list[Any]:
    """Return the elements of an array; one object is an array of it."""
    return [value] if isinstance(value, dict) and value else list(value or [])


def text(value: Any) -> str:
    """Return a value as one text, whatever its type is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float | Decimal):
        digits = f"{Decimal(str(value)):f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=float)
    return str(value)


def is_rewritten(column: Column) -> bool:
    """Tell whether the loader rewrites the values of a column in a way of which only the outcome can be seen."""
    is_day = column.type == "date" and not column.unwrap
    return bool(column.unwrap or column.json or column.decimal or column.timezone or (column.formats and not is_day))


def expected(  # noqa: PLR0911 - one for each way to write a value
    column: Column, item: Any, position: int, outer: tuple[Any, ...]
) -> str | None:
    """Return the value of a column as `stored` returns it; `item` is the object of the row."""
    if column.value is not None or column.path.startswith(DOCUMENT):
        return VALUE
    value = position if column.path == "#" else at(item, column.path, outer, column.null_if)
    if value is None or means_none(value, column.null_if):
        return None
    if is_rewritten(column):
        return None if value in ({"NULL": True}, {"$undefined": True}) else VALUE
    if column.type == "boolean" and (means_none(value, column.true) or means_none(value, column.false)):
        return text(means_none(value, column.true))
    if column.type in {"timestamp", "timestamptz"} and not column.misfits_to:
        return text(datetime.fromisoformat(str(value)))
    if column.formats and isinstance(value, str):
        try:
            return datetime.strptime(value, column.formats[0]).date().isoformat()  # noqa: DTZ007 - a day has no zone
        except ValueError:
            return text(value)
    return number_text(value) if column.type in {"bigint", "numeric"} else text(value)


def number_text(value: Any) -> str:
    """Return a number in any spelling as one text."""
    try:
        return text(Decimal(str(value)))
    except ArithmeticError:
        return text(value)


def assert_values_came_back(connection: Connection, dataset: Dataset, records: list[Record]) -> None:
    """Compare all rows of the tables of a dataset with those that the records should become."""
    for table in dataset.tables:
        notes = {column.misfits_to for column in table.columns} - {None}
        columns = [column for column in table.columns if column.name not in notes]
        shown = [
            sql.SQL("coalesce({}::text, {})").format(sql.Identifier(column.name), sql.Identifier(column.misfits_to))
            if column.misfits_to
            else sql.Identifier(column.name)
            for column in columns
        ]
        rows = connection.execute(
            sql.SQL("select {} from {} order by {}").format(
                sql.SQL(", ").join(shown), table.identifier, sql.SQL(", ").join(map(sql.Identifier, LINEAGE))
            )
        ).fetchall()
        found = sorted(
            repr([None if value is None else stored(c, value) for c, value in zip(columns, row, strict=True)])
            for row in rows
        )
        wanted = sorted(
            repr([expected(column, item, position, outer) for column in columns])
            for record in records
            for item, position, outer in elements(record, table.each)
        )
        assert found == wanted, table.name


def stored(column: Column, value: Any) -> str:
    """Return the value of a column in the database as one text."""
    if column.value is not None or column.path == "@" or column.path.startswith(DOCUMENT) or is_rewritten(column):
        return VALUE
    if not column.misfits_to:
        return text(value)
    if column.type == "timestamptz" and value[:2] == "20" and value.endswith("+00"):
        return text(datetime.fromisoformat(value))
    return number_text(value) if column.type in {"bigint", "numeric"} else str(value)


def records_at(documents: list[Any], path: str) -> list[Record]:
    """Return the records at a records path of documents that follow one another."""
    found = documents
    if path == "item":
        return [each for document in found for each in (document if isinstance(document, list) else [document])]
    for name in path.split(".") if path else []:
        if name == "item":
            found = [element for value in found for element in value or []]
        elif name == "*":
            found = [inner for value in found for inner in value.values()]
        else:
            found = [value[name] for value in found if name in value]
    return found


def scalars_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of each scalar of a document; the elements of an array are called `item`."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in scalars_of(inner, (*path, name))]
    if isinstance(value, list):
        return [found for inner in value for found in scalars_of(inner, (*path, "item"))]
    return [path]


def lost_scalars(documents: list[Any], dataset: Dataset, left_out: dict[str, int]) -> list[str]:
    """Return the paths of the scalars that are in no column, and are not named as left out with their number."""
    covered = [_absolute(dataset, table.each, column) for table in dataset.tables for column in table.columns]
    missing: dict[str, int] = {}
    for document in documents:
        for path in scalars_of(document):
            if not any(_covers(column, path) for column in covered if column is not None):
                spelled = ".".join(path)
                missing[spelled] = missing.get(spelled, 0) + 1
    named = {path: count for path, count in left_out.items() if not path.endswith(" (the names there)")}
    return sorted(f"{path}: {count}" for path, count in missing.items() ^ named.items())


def _absolute(dataset: Dataset, each: tuple[str, ...], column: Column) -> tuple[str, ...] | None:
    if column.value is not None or column.path in {"#", "@"} or column.path.startswith("^"):
        return None
    if column.path.startswith(DOCUMENT):
        return tuple(names_in(column.path.removeprefix(DOCUMENT)))
    path = () if dataset.records == "item" else tuple(dataset.records.split(".")) if dataset.records else ()
    for array in each:
        path += (*names_in(array), "item")
    return path if column.path == "." else (*path, *names_in(column.path))


def _covers(column: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Tell whether a column has the scalar: at its path, within the value there, or as no value on the way to it.

    An object may be its own array.
    """
    places, at_path = list(column), list(path)
    if at_path[:1] == ["item"] and places[:1] != ["item"]:
        del at_path[0]
    while places:
        place = places.pop(0)
        if not at_path:
            return True
        if place in {"*", at_path[0]}:
            del at_path[0]
        elif place != "item":
            return False
    return True
