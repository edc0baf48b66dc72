"""Columns of a table that hold less than their definition: the server rounds, pads or cuts their values silently."""

import re

import psycopg

from etl import queries
from etl.datasets import Column, Dataset
from etl.datasets.types import NumberType, TextType, TimeType
from etl.quick_dataclasses import dataclass

_SQL = queries.load("comparison")
_MODIFIER = re.compile(r"\(([-0-9, ]+)\)")
_MICROSECONDS = 6
_KEEP_TEXT = frozenset({"text", "character varying", "citext", "bpchar"})


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The type of a column in the table, without its modifier; `size` are the numbers of the modifier."""

    base: str
    size: tuple[int, ...]


def narrower_columns(connection: psycopg.Connection, dataset: Dataset) -> dict[str, str]:
    """Return the columns, by table and name, that change a value which fits the definition: their type, and how."""
    found = {}
    for table in dataset.tables:
        types: dict[str, str] = dict(connection.execute(_SQL["stored_types"], {"table": table.quoted}).fetchall())
        for column in table.columns:
            name = types.get(column.name)
            effect = _effect(column, _stored(name)) if name else None
            if effect:
                found[f"{table.name}.{column.name}"] = f"{name} {effect}"
    return found


def _stored(name: str) -> _Stored:
    match = _MODIFIER.search(name)
    size = tuple(map(int, match[1].split(","))) if match else ()
    return _Stored(base=_MODIFIER.sub("", name), size=size)


def _effect(column: Column, stored: _Stored) -> str | None:
    type_ = column.column_type
    if isinstance(type_, NumberType):
        return _of_number(type_, stored)
    if isinstance(type_, TimeType):
        return _of_time(type_, stored)
    return _of_text(stored) if isinstance(type_, TextType) else None


def _of_number(type_: NumberType, stored: _Stored) -> str | None:
    if stored.base == "numeric" and stored.size:
        scale = stored.size[1] if len(stored.size) > 1 else 0
        return f"rounds to {scale} digits after the point" if scale < 0 or type_.limits is None else None
    if stored.base == "real" and type_.name != "smallint":
        return "rounds to 6 digits"
    if stored.base == "double precision" and type_.name in {"bigint", "numeric"}:
        return "rounds to 15 digits"
    return "rounds to the digits of a currency" if stored.base == "money" else None


def _of_time(type_: TimeType, stored: _Stored) -> str | None:
    if stored.base == "date" and type_.name != "date":
        return "cuts the time of day"
    if stored.base.startswith("time ") and type_.name != "time":
        return "cuts the day"
    if stored.base == "timestamp without time zone" and type_.name == "timestamptz":
        return "drops the zone"
    if stored.size and stored.size[0] < _MICROSECONDS:
        return f"rounds to {stored.size[0]} digits of a second"
    return None


def _of_text(stored: _Stored) -> str | None:
    if stored.base == "character":
        return f"pads to {stored.size[0] if stored.size else 1} characters"
    if stored.base == "name":
        return "cuts to 63 bytes"
    if stored.base == '"char"':
        return "cuts to one byte"
    return None if stored.base in _KEEP_TEXT else "keeps the value, and not the text as it is written"
