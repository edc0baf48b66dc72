"""Pages as Parquet and as Arrow: columns of values with their types. Needs pyarrow, of the extra `parquet`."""

import io
from collections.abc import Sequence
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

from etl.serving.problems import ProblemError
from etl.serving.tables import Column

_MOST_DIGITS = 76
_FEW_DIGITS = 38

# The names of types in the catalogue of PostgreSQL, by the names in its messages.
_KINDS = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "boolean": "bool",
    "date": "date",
    "timestamp with time zone": "timestamptz",
}


def is_installed() -> bool:
    """Return whether pages can be written in these formats."""
    return find_spec("pyarrow") is not None


def body_of(columns: Sequence[Column], rows: Sequence[Sequence[Any]], format: str) -> bytes:
    """Return a page in one of the two formats; the comment of a column is its metadata.

    Raises ProblemError for a number with more digits than the formats can hold.
    """
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s and 50 MB for those who ask for it

    from etl.exporting.columns import stored_type  # noqa: PLC0415 - the same
    from etl.exporting.writing import columnar_writer  # noqa: PLC0415 - the same

    fields, arrays = [], []
    for place, column in enumerate(columns):
        values = [row[place] for row in rows]
        if column.kind == "numeric":
            kind = _decimal(pa, column, [value for value in values if value is not None])
        else:
            kind = stored_type(_KINDS.get(column.kind, "text"))
        fields.append(pa.field(column.name, kind, metadata={"comment": column.comment}))
        arrays.append(pa.array(values, type=kind))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    output = io.BytesIO()
    with columnar_writer(output, table.schema, "parquet" if format == "parquet" else "arrow-stream") as writer:
        writer.write_table(table)
    return output.getvalue()


def _decimal(pa: Any, column: Column, values: Sequence[Decimal]) -> Any:
    after = max((max(0, -int(value.as_tuple().exponent)) for value in values if value.is_finite()), default=0)
    before = max((value.adjusted() + 1 for value in values if value.is_finite() and value), default=1)
    digits = max(1, before) + after
    if digits > _MOST_DIGITS or not all(value.is_finite() for value in values):
        raise ProblemError(
            422, f"{column.name} has a number that this format cannot hold; ask for csv, or leave it out by select"
        )
    return (pa.decimal128 if digits <= _FEW_DIGITS else pa.decimal256)(digits, after)
