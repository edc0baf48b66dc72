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


def is_installed() -> bool:
    """Return whether pages can be written in these formats."""
    return find_spec("pyarrow") is not None


def body_of(columns: Sequence[Column], rows: Sequence[Sequence[Any]], format: str) -> bytes:
    """Return a page in one of the two formats; the comment of a column is its metadata.

    Raises ProblemError for a number with more digits than the formats can hold.
    """
    import pyarrow as pa  # noqa: PLC0415 - 0.2 s and 50 MB for those who ask for it
    from pyarrow import parquet  # noqa: PLC0415 - the same

    fields, arrays = [], []
    for place, column in enumerate(columns):
        values = [row[place] for row in rows]
        kind = _kind(pa, column, values)
        fields.append(pa.field(column.name, kind, metadata={"comment": column.comment}))
        arrays.append(pa.array(values, type=kind))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    output = io.BytesIO()
    if format == "parquet":
        parquet.write_table(table, output)
    else:
        with pa.ipc.new_stream(output, table.schema) as writer:
            writer.write_table(table)
    return output.getvalue()


def _kind(pa: Any, column: Column, values: Sequence[Any]) -> Any:
    """Return the type of a column; a numeric one has the digits that its values need."""
    if column.kind == "numeric":
        return _decimal(pa, column, [value for value in values if value is not None])
    kinds = {
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    }
    return kinds.get(column.kind, pa.string())


def _decimal(pa: Any, column: Column, values: Sequence[Decimal]) -> Any:
    after = max((max(0, -int(value.as_tuple().exponent)) for value in values if value.is_finite()), default=0)
    before = max((value.adjusted() + 1 for value in values if value.is_finite() and value), default=1)
    digits = max(1, before) + after
    if digits > _MOST_DIGITS or not all(value.is_finite() for value in values):
        raise ProblemError(
            422, f"{column.name} has a number that this format cannot hold; ask for csv, or leave it out by select"
        )
    return (pa.decimal128 if digits <= _FEW_DIGITS else pa.decimal256)(digits, after)
