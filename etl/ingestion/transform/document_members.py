"""Members of the document above the records (`$document.NAME`) as constants of their columns. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from etl.datasets import Column, Dataset
from etl.ingestion.framing import partial
from etl.ingestion.transform.members import getter
from etl.ingestion.transform.structures import encoded
from etl.ingestion.values import Misfit

_VALUE = "value"

_decode = partial.decoder().decode


def with_document(dataset: Dataset, values: Mapping[str, Any]) -> Dataset:
    """Return the definition for a source whose document has these members, by the paths that columns name."""
    tables = tuple(
        replace(table, columns=tuple(_with_value(column, values) for column in table.columns))
        for table in dataset.tables
    )
    return replace(dataset, tables=tables, document=tuple((path, _json(value)) for path, value in values.items()))


def with_stored(dataset: Dataset, document: Mapping[str, str]) -> Dataset:
    """Return the definition for records of the failed store, which keeps the members as JSON."""
    return with_document(dataset, {path: _decode(text) for path, text in document.items()}) if document else dataset


def _json(value: Any) -> str:
    """Return a value as JSON; a text that no table can hold is written with escapes."""
    try:
        return encoded(value)
    except Misfit:
        return json.dumps(value, default=str)


def _with_value(column: Column, values: Mapping[str, Any]) -> Column:
    if column.value is not None or column.path not in values:
        return column
    own = {"path": column.name, "null_if": (), "trim": False, "default": None, "unwrap": None}
    try:
        value = getter(replace(column, path=_VALUE, required=False))({_VALUE: values[column.path]}, None, 1)
    except Misfit:
        value = values[column.path]
    if value is None:
        return replace(column, **own | {"value": "", "null_if": ("",), "json": False})
    # A value keeps its kind as JSON; a text that holds JSON itself is read once.
    text = value if column.json and isinstance(value, str) else _json(value)
    return replace(column, **own, value=text, json=True)
