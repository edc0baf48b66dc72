"""Columns of PostgreSQL -> columns of Arrow: what COPY sends, as which type it is read, and what is stored.

The plain form of a column is read from the text that the server writes. Some values have no such text: an infinite
time, a year after 9999, 24:00. The guarded form holds all values, and costs more. A numeric column has as many digits
as it declares, or else as its values need; above 38 digits it is stored as text, because several programs read longer
decimals as floating-point numbers or not at all. Needs pyarrow, of the extra `parquet`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from psycopg import sql

from etl import queries
from etl.exporting.server_columns import ARRAYS, TIMES, ServerColumn
from etl.quick_dataclasses import dataclass

_SQL = queries.load("exporting")

MOST_DIGITS = 38
"""Digits of the longest decimal that DuckDB, Polars, pandas and pyarrow read exactly."""

_FEW_DIGITS = 18  # Such a decimal is a 64-bit integer, which is fast to add up.
_HEADROOM = 2

_PLAIN: Mapping[str, Any] = {
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}
_TEXTS = msgspec.json.Decoder(list[list[str | None] | None])
_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)")


class Digits(NamedTuple):
    """The digits of a decimal: all of them, and those after the point."""

    precision: int
    scale: int


@dataclass(frozen=True, kw_only=True)
class CarriedColumn:
    """A column on its way: `select` is what COPY sends, `read` the type of its text, `stored` the type in the file."""

    source: ServerColumn
    select: sql.Composable
    read: Any
    stored: Any
    convert: Callable[[Any], Any] | None = None


def declared(column: ServerColumn) -> Digits | None:
    """Return the digits that a numeric column declares, as a decimal of Arrow has them; None where it declares none."""
    if column.modifier < 4:
        return None
    packed = column.modifier - 4
    precision, scale = packed >> 16, ((packed & 2047) ^ 1024) - 1024
    if scale < 0:
        return Digits(precision - scale, 0)
    return Digits(max(precision, scale), scale)


def needed(before: int, after: int) -> Digits | None:
    """Return the digits for values with so many before and after the point; None where a decimal cannot hold them.

    Some more fit before the point, so that the type of a column stays the same as its values grow.
    """
    if before + after + _HEADROOM <= _FEW_DIGITS:
        return Digits(_FEW_DIGITS, after)
    return Digits(MOST_DIGITS, after) if before + after <= MOST_DIGITS else None


def digits_of(stored: str) -> Digits | None:
    """Return the digits of a stored type by its name; None for text."""
    match = _DECIMAL.fullmatch(stored)
    return Digits(int(match[1]), int(match[2])) if match else None


def stored_type(kind: str, digits: Digits | None = None) -> Any:
    """Return the type of Arrow for a type of PostgreSQL; text where Arrow has none."""
    if kind == "numeric" and digits is not None and digits.precision <= MOST_DIGITS:
        return pa.decimal128(digits.precision, digits.scale)
    if kind in ARRAYS:
        return pa.list_(pa.string())
    return _PLAIN.get(kind, pa.string())


def plain(column: ServerColumn, digits: Digits | None) -> CarriedColumn:
    """Return the plain form of a column."""
    stored = stored_type(column.kind, digits)
    if column.kind in ARRAYS:
        select = sql.SQL("to_json({})").format(column.identifier)
        return CarriedColumn(source=column, select=select, read=pa.string(), stored=stored, convert=_texts)
    return CarriedColumn(source=column, select=column.identifier, read=stored, stored=stored)


def guarded(column: ServerColumn, digits: Digits | None, count_odd: int) -> CarriedColumn:
    """Return the form of a column that holds each of its values, where so many are odd: Arrow does not have them.

    An infinite time becomes null. A column of times of day or of arrays becomes text for the sake of an odd one.
    """
    stored = stored_type(column.kind, digits)
    if column.kind in TIMES:
        sent = "days" if column.kind == "date" else "microseconds"
        return CarriedColumn(
            source=column,
            select=_SQL[sent].format(column=column.identifier),
            read=pa.int32() if column.kind == "date" else pa.int64(),
            stored=stored,
            convert=lambda values: values.cast(stored),
        )
    if count_odd:
        return CarriedColumn(source=column, select=column.identifier, read=pa.string(), stored=pa.string())
    return plain(column, digits)


def kept(column: ServerColumn, stored: str, *, is_guarded: bool) -> CarriedColumn:
    """Return the form of a column that is stored as this type already; its digits and its texts stay."""
    digits = digits_of(stored)
    is_text = stored == "string" and column.kind != "numeric"
    return guarded(column, digits, int(is_text)) if is_guarded or is_text else plain(column, digits)


def schema_of(columns: Sequence[CarriedColumn], about: Mapping[str, str]) -> Any:
    """Return the schema of a file: comments and types of PostgreSQL are metadata of the columns."""
    fields = [
        pa.field(
            column.source.name,
            column.stored,
            metadata={"postgresql": column.source.type}
            | ({"comment": column.source.comment} if column.source.comment else {}),
        )
        for column in columns
    ]
    return pa.schema(fields, metadata=dict(about))


def _texts(values: Any) -> Any:
    """Return arrays of texts from their JSON."""
    lines = ["null" if value is None else value for value in values.to_pylist()]
    return pa.array(_TEXTS.decode("[" + ",".join(lines) + "]"), type=pa.list_(pa.string()))
