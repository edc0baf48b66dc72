"""A table whose values are hard to export: each type, nulls, numbers of many digits, texts like marks of formats."""

import datetime as dt
from decimal import Decimal
from typing import Any, LiteralString

from psycopg import sql

from tests.support.faults import Connection

NAME: LiteralString = "logistics.hostile"

_COLUMNS: LiteralString = """
    id integer, plain numeric, declared numeric(30, 10), longer numeric(60, 5), no_number numeric, name text,
    names text[], document jsonb, instant timestamptz, local timestamp, day date, of_day time, is_good boolean,
    measure double precision, big bigint, one uuid
"""

LONGER = "1234567890123456789012345678901234567890123.45000"
NAMES = ["a", "b,c", None, "", "é😀", 'q"x', "null", "{}"]

ROWS: list[dict[str, Any]] = [
    {
        "id": 1,
        "plain": Decimal("123456789012345678901234567890.123"),
        "declared": Decimal("12345678901234567890.0123456789"),
        "longer": Decimal(LONGER),
        "no_number": Decimal("1.50"),
        "name": 'tab\t newline\n return\r "quoted" \\N \\. é😀',
        "names": NAMES,
        "document": '{"a": [1, 2.50, "é😀"]}',
        "instant": dt.datetime.fromisoformat("2026-06-01T00:30:00.123456+02:00"),
        "local": dt.datetime.fromisoformat("2026-06-01T00:30:00.000001"),
        "day": dt.date(2026, 6, 1),
        "of_day": dt.time(23, 59, 59, 999999),
        "is_good": True,
        "measure": 0.1,
        "big": 2**63 - 1,
        "one": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    },
    {"id": 2, "instant": dt.datetime.fromisoformat("2026-06-30T23:59:59.999999+00:00"), "name": "", "names": []},
    {"id": 3, "plain": Decimal("-0.000001"), "name": "NULL", "document": "null", "is_good": False},
    {"id": 4, "instant": dt.datetime.fromisoformat("1900-01-31T00:00:00+00:00"), "big": -(2**63), "name": "\\N"},
]


def make(connection: Connection) -> None:
    """Make the table with its rows."""
    table = sql.SQL(NAME)
    connection.execute(sql.SQL("create table {} ({})").format(table, sql.SQL(_COLUMNS)))
    connection.execute(sql.SQL("create index on {} (instant)").format(table))
    for row in ROWS:
        names, marks = sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join([sql.Placeholder()] * len(row))
        insert = sql.SQL("insert into {} ({}) values ({})").format(table, names, marks)
        connection.execute(insert, list(row.values()))


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as an export has it: decimals of more than 38 digits, documents and identifiers are texts."""
    names = [name.split()[0] for name in _COLUMNS.replace("30, 10", "30").replace("60, 5", "60").split(",")]
    values = {name: row.get(name) for name in names}
    if values["longer"] is not None:
        values["longer"] = LONGER
    if values["instant"] is not None:
        values["instant"] = values["instant"].astimezone(dt.UTC)
    return values
