"""A definition as `sources.yml` of dbt: tables, comments, keys as tests, and the freshness that the ledger shows.

Composes the text, and connects to nothing. The properties are those of dbt 1.10 and later.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from psycopg import sql

from etl.datasets.definition import Column, Dataset, Table
from etl.datasets.tables import columns_in_database, quoted

_WARN_HOURS, _ERROR_HOURS = 26, 50
"""A night and two nights, each with two hours to load."""

_LOADED_AT = sql.SQL(
    "select max(finished_at) from etl.runs where dataset = {} and superseded_by is null and undone_at is null"
)


def sources(dataset: Dataset) -> str:
    """Return the file with the tables of a dataset as sources, one source for each schema."""
    head = [
        f"# Made by `etl dataset show {dataset.name} --as dbt`, for dbt 1.10 and later.",
        "# For the freshness, the role of dbt needs usage on schema etl, and select on etl.runs.",
        "version: 2",
        "sources:",
    ]
    for schema in dict.fromkeys(table.schema for table in dataset.tables):
        head += _source(dataset, schema, [table for table in dataset.tables if table.schema == schema])
    return "\n".join(head) + "\n"


def _source(dataset: Dataset, schema: str, tables: list[Table]) -> Iterator[str]:
    yield f"  - name: {_text(_source_name(dataset, schema))}"
    yield f"    schema: {_text(schema)}"
    yield f"    description: {_text(f'Dataset {dataset.name}, loaded by etl')}"
    yield "    loader: etl"
    yield "    config:"
    yield f"      loaded_at_query: {_text(_LOADED_AT.format(sql.Literal(dataset.name)).as_string(None))}"
    yield "      freshness:"
    yield f"        warn_after: {{count: {_WARN_HOURS}, period: hour}}"
    yield f"        error_after: {{count: {_ERROR_HOURS}, period: hour}}"
    yield "    tables:"
    for table in tables:
        yield from _table(dataset, table)


def _source_name(dataset: Dataset, schema: str) -> str:
    """Return the name of the source; that of a second schema is another."""
    return dataset.name if schema == dataset.tables[0].schema else f"{dataset.name}_{schema}"


def _table(dataset: Dataset, table: Table) -> Iterator[str]:
    yield f"      - name: {_text(table.name.partition('.')[2])}"
    if table.comment:
        yield f"        description: {_text(table.comment)}"
    is_of_records = not table.each
    if is_of_records and len(dataset.key) > 1:
        # A row as text: two keys are the same text only if each of their columns is the same.
        yield "        data_tests:"
        yield from _test("unique", 10, column_name=f"row({quoted(dataset.key)})::text")
    yield "        columns:"
    columns = {column.name: column for column in table.columns}
    for name, (kind, comment) in columns_in_database(dataset, table).items():
        yield f"          - name: {_text(name)}"
        yield "            quote: true"
        yield f"            data_type: {_text(kind)}"
        if comment:
            yield f"            description: {_text(comment)}"
        if tests := list(_tests(dataset, table, columns.get(name))):
            yield "            data_tests:"
            yield from tests


def _tests(dataset: Dataset, table: Table, column: Column | None) -> Iterator[str]:
    """Yield the tests of a column; those of the lineage need none, because the table refuses a null."""
    if column is None:
        return
    if column.required:
        yield "              - not_null"
    if dataset.key == (column.name,):
        if not table.each:
            yield "              - unique"
        else:
            parent = dataset.tables[0]
            source = f"source('{_source_name(dataset, parent.schema)}', '{parent.name.partition('.')[2]}')"
            yield from _test("relationships", 14, to=source, field=quoted(dataset.key))
    # dbt writes a value between quotes as it is, and reads braces as a template.
    if column.one_of and not re.search(r"['{}]", "".join(column.one_of)):
        yield from _test("accepted_values", 14, values=list(column.one_of))


def _test(name: str, indent: int, **arguments: str | list[str]) -> Iterator[str]:
    yield f"{' ' * indent}- {name}:"
    yield f"{' ' * indent}    arguments:"
    yield from (f"{' ' * indent}      {key}: {_value(value)}" for key, value in arguments.items())


def _value(value: str | list[str]) -> str:
    return _text(value) if isinstance(value, str) else f"[{', '.join(map(_text, value))}]"


def _text(text: Any) -> str:
    """Return a text of YAML between double quotes: JSON's escapes, and no character that YAML forbids.

    dbt renders such a text as a template, so braces are written as the template that gives them.
    """
    text = re.sub(r"\{[{%#]", lambda found: "{{ '" + found[0] + "' }}", text)
    written = json.dumps(text, ensure_ascii=False)
    return "".join(
        letter if letter.isprintable() or ord(letter) > 0xFFFF else f"\\u{ord(letter):04x}" for letter in written
    )
