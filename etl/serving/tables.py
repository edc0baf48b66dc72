"""The aggregates that are served, as values: the head of their file, and the columns of their table in the database.

A new `.sql` file is a new address with its documentation, as soon as `etl db migrate` has made its table.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import psycopg
from psycopg.rows import dict_row

from etl import queries
from etl.datasets import Dataset
from etl.precalculation.catalogue import Aggregate
from etl.version import __version__

_SQL = queries.load("serving")

_UNIT = re.compile(r"\bUnit: ([^.]+)\.")
_LENGTH = re.compile(r"\(-?\d+(,-?\d+)?\)")
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "double precision", "real")
_TEXTS = ("text", "character varying", "character", "citext", "name")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a served table: its type as PostgreSQL writes it, and whether an index leads to its values."""

    name: str
    type: str
    comment: str
    is_indexed: bool

    @property
    def unit(self) -> str | None:
        """The unit of its values, if the comment names one."""
        found = _UNIT.search(self.comment)
        return found[1] if found else None

    @property
    def kind(self) -> str:
        """The type without its length."""
        return _LENGTH.sub("", self.type)

    @property
    def compared_type(self) -> str:
        """The type of a value that is compared with its values: one of a length would be cut or rounded to it."""
        return {"character": "bpchar", "bit": "varbit"}.get(self.kind, self.kind)

    @property
    def is_time(self) -> bool:
        """Whether its values are days or times."""
        return self.kind.startswith(("date", "time"))

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in _NUMBERS

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.kind in _TEXTS


@dataclass(frozen=True, kw_only=True)
class Table:
    """A served aggregate, or a table of facts as if it were one.

    `has_policies`: row-level security decides which rows a role sees, so no answer is kept. `is_fact`: it has no
    version, so none is kept either.
    """

    aggregate: Aggregate
    columns: Mapping[str, Column]
    has_policies: bool
    is_fact: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether an answer can be kept until the version of the rows changes."""
        return not (self.has_policies or self.is_fact)

    @property
    def name(self) -> str:
        """The name of the aggregate, as it is in an address."""
        return self.aggregate.name

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key, in the order of the pages."""
        return self.aggregate.key

    @property
    def indexed(self) -> list[str]:
        """The columns that rows are chosen by."""
        return [column.name for column in self.columns.values() if column.is_indexed]

    @cached_property
    def mark(self) -> str:
        """A digest of everything but the rows that an answer depends on."""
        text = repr((__version__, self.name, self.key, [(each.name, each.type) for each in self.columns.values()]))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


async def read_tables(connection: psycopg.AsyncConnection[Any], aggregates: Iterable[Aggregate]) -> dict[str, Table]:
    """Return the aggregates whose tables exist, by name."""
    known = {aggregate.table: aggregate for aggregate in aggregates}
    found: dict[str, list[dict[str, Any]]] = {}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["columns"], {"tables": list(known)})
        async for row in cursor:
            found.setdefault(row["table"], []).append(row)
    return {known[name].name: _table(known[name], rows) for name, rows in _in_order(known, found)}


async def read_facts(connection: psycopg.AsyncConnection[Any], datasets: Iterable[Dataset]) -> dict[str, Table]:
    """Return the tables of datasets that exist and have a primary key, which is the order of their pages, by name."""
    comments = {table.name: table.comment for dataset in datasets for table in dataset.tables}
    keys = await (await connection.execute(_SQL["keys"], {"tables": list(comments)})).fetchall()
    known = [as_aggregate(name, tuple(key), comments[name] or "") for name, key in keys]
    return {name: replace(table, is_fact=True) for name, table in (await read_tables(connection, known)).items()}


def as_aggregate(name: str, key: tuple[str, ...], comment: str) -> Aggregate:
    """Return a table that is no aggregate as if it were one."""
    return Aggregate(
        name=name,
        table=name,
        grain=comment or f"One row per {', '.join(key)}.",
        bucket="all",
        bucket_column="all",
        facts=(),
        newest=(name, key[0]),
        key=key,
        columns=(),
        select="",
        path="",
    )


def _in_order(
    known: Mapping[str, Aggregate], found: Mapping[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name, aggregate in sorted(known.items(), key=lambda item: item[1].name):
        rows = found.get(name, [])
        if {row["name"] for row in rows} >= set(aggregate.key):
            yield name, rows


def _table(aggregate: Aggregate, rows: list[dict[str, Any]]) -> Table:
    columns = {
        row["name"]: Column(
            name=row["name"], type=row["type"], comment=row["comment"], is_indexed=bool(row["is_indexed"])
        )
        for row in rows
    }
    return Table(aggregate=aggregate, columns=columns, has_policies=any(row["has_policies"] for row in rows))
