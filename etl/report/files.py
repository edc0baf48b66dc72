"""Reports as CSV, JSON or Parquet: all rows and all digits, in constant memory."""

from itertools import islice
from typing import Any, BinaryIO

import msgspec
import psycopg
import structlog

from etl.errors import UsageError
from etl.precalculation import reading
from etl.precalculation.reading import Subject
from etl.report import times

log = structlog.get_logger(__name__)

_ROWS_A_GROUP = 50_000
_MOST_DIGITS = 76  # of a Parquet decimal


def write_csv(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write CSV as PostgreSQL does, with a header: a null is empty, an empty text is two quotes."""
    output.writelines(reading.read_csv(connection, subject, limit))


def write_json(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write one JSON object per line; numbers keep their digits."""
    encoder = msgspec.json.Encoder(decimal_format="number")
    names = [name for name, _ in subject.columns]
    rows = reading.read(connection, subject, limit)
    output.writelines(encoder.encode(dict(zip(names, row, strict=True))) + b"\n" for row in rows)


def write_parquet(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write Parquet. A numeric column becomes a decimal with the digits that it needs, and comments become metadata.

    An infinite time, and one beyond the year 294,246, becomes null; a line of the log counts these values.
    Raises UsageError when pyarrow is missing, and for a number with more digits than Parquet can hold.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, of 170 MB
        from pyarrow import parquet  # noqa: PLC0415 - of the same extra
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow, which is not installed", hint="pip install pyarrow") from error
    kinds = [
        _kind(pa, connection, subject, name, kind)
        for (name, _), kind in zip(subject.columns, reading.types(connection, subject), strict=True)
    ]
    fields = [
        pa.field(name, kind, metadata={"comment": comment}) if comment else pa.field(name, kind)
        for (name, comment), kind in zip(subject.columns, kinds, strict=True)
    ]
    schema = pa.schema(fields, metadata={"table": f"analytics.{subject.name}", "grain": subject.grain})
    lost = dict.fromkeys((name for name, _ in subject.columns), 0)
    rows = reading.read(connection, subject, limit)
    with parquet.ParquetWriter(output, schema) as writer:
        while group := list(islice(rows, _ROWS_A_GROUP)):
            columns = [
                pa.array([_value(row[place], kind) for row in group], type=kind) for place, kind in enumerate(kinds)
            ]
            for place, name in enumerate(lost):
                lost[name] += columns[place].null_count - sum(row[place] is None for row in group)
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    for name, count in lost.items():
        if count:
            log.warning("times_not_in_parquet", table=f"analytics.{subject.name}", column=name, values=count)


def _kind(pa: Any, connection: psycopg.Connection, subject: Subject, name: str, kind: str) -> Any:
    if kind == "numeric":
        before, after = reading.digits(connection, subject, name)
        if before + after > _MOST_DIGITS:
            raise UsageError(
                f"analytics.{subject.name}.{name} needs {before + after} digits, Parquet has at most {_MOST_DIGITS}",
                hint="use --format csv, or choose other columns by --columns",
            )
        return (pa.decimal128 if before + after <= 38 else pa.decimal256)(max(before + after, 1), after)
    types = {
        "smallint": pa.int16(),
        "int2": pa.int16(),
        "int4": pa.int32(),
        "int8": pa.int64(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "float8": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", tz="UTC"),
    }
    return types.get(kind, pa.string())


def _value(value: Any, kind: Any) -> Any:
    """Return a value as pyarrow takes it; a time that neither Python nor Parquet can hold is null."""
    if value is None:
        return None
    if str(kind) == "string":
        return str(value)
    if not isinstance(value, str):
        return value
    return times.days(value) if str(kind).startswith("date32") else times.microseconds(value)
