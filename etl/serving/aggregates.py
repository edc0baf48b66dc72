"""What there is to read: the aggregates and facts with their columns, how fresh each is, and who asks."""

from dataclasses import dataclass

from fastapi import APIRouter, Depends, Request
from psycopg.rows import class_row

from etl import queries
from etl.serving.identity import Identity, Role
from etl.serving.listing import takes_no_parameter
from etl.serving.pool import Connection, Sessions
from etl.serving.rows import table_named
from etl.serving.tables import Column, Table
from etl.serving.watching import Freshness, Watch

_SQL = queries.load("serving")


@dataclass(frozen=True, kw_only=True)
class ColumnEntry:
    """A column: its type as PostgreSQL writes it, its unit, its meaning, and whether rows can be chosen by it."""

    name: str
    type: str
    unit: str | None
    comment: str
    is_filter: bool


@dataclass(frozen=True, kw_only=True)
class AggregateEntry:
    """A precomputed table: the meaning of a row, its key, which is the order of its pages, and its columns."""

    name: str
    grain: str
    bucket: str
    key: list[str]
    rows: str
    version: int | None
    columns: list[ColumnEntry]


@dataclass(frozen=True, kw_only=True)
class Aggregates:
    """The precomputed tables."""

    aggregates: list[AggregateEntry]


@dataclass(frozen=True, kw_only=True)
class FactTable:
    """A table that a dataset fills: the meaning of a row, its key, which is the order of its pages, and its columns."""

    name: str
    comment: str
    key: list[str]
    rows: str
    columns: list[ColumnEntry]


@dataclass(frozen=True, kw_only=True)
class FactTables:
    """The tables of datasets that have a key."""

    facts: list[FactTable]


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who asks: a name, which is no secret, the role of the service, and whether that one may replay here."""

    name: str
    role: Role
    may_replay: bool


@dataclass(frozen=True, kw_only=True)
class FreshnessList:
    """How fresh each aggregate is."""

    freshness: list[Freshness]


def router(watch: Watch, sessions: Sessions, *, replays: bool) -> APIRouter:
    """Return the routes that say what there is; `replays`: this service replays files of the failed store."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(takes_no_parameter)], tags=["aggregates"])

    @routes.get("/aggregates")
    async def aggregates() -> Aggregates:
        """List the precomputed tables."""
        return Aggregates(aggregates=[_entry(table, watch) for table in watch.tables.values()])

    @routes.get("/aggregates/{name}")
    async def aggregate(name: str) -> AggregateEntry:
        """Describe one precomputed table: its grain, its key, its columns with their units."""
        return _entry(table_named(watch, name), watch)

    @routes.get("/facts")
    async def facts() -> FactTables:
        """List the tables of datasets whose rows can be read: those with a key."""
        return FactTables(facts=[_fact(table) for table in watch.facts.values()])

    @routes.get("/identity")
    async def visitor(request: Request) -> Visitor:
        """Say who asks, and what role that one has."""
        identity: Identity = request.scope["etl.identity"]
        return Visitor(name=identity.name, role=identity.role, may_replay=replays and identity.may("operator"))

    @routes.get("/freshness")
    async def freshness(request: Request) -> FreshnessList:
        """Say of each aggregate through when its facts reach, and what waits for the next refresh."""
        identity: Identity = request.scope["etl.identity"]

        async def read(connection: Connection) -> list[Freshness]:
            async with connection.cursor(row_factory=class_row(Freshness)) as cursor:
                await cursor.execute(_SQL["freshness"], {"aggregate": None})
                return await cursor.fetchall()

        return FreshnessList(freshness=await sessions.read(identity.database_role, read))

    return routes


def _entry(table: Table, watch: Watch) -> AggregateEntry:
    known = watch.freshness.get(table.name)
    return AggregateEntry(
        name=table.name,
        grain=table.aggregate.grain,
        bucket=table.aggregate.bucket,
        key=list(table.key),
        rows=f"/v1/aggregates/{table.name}/rows",
        version=known.version if known else None,
        columns=[_column(column) for column in table.columns.values()],
    )


def _fact(table: Table) -> FactTable:
    return FactTable(
        name=table.name,
        comment=table.aggregate.grain,
        key=list(table.key),
        rows=f"/v1/facts/{table.name}",
        columns=[_column(column) for column in table.columns.values()],
    )


def _column(column: Column) -> ColumnEntry:
    return ColumnEntry(
        name=column.name, type=column.type, unit=column.unit, comment=column.comment, is_filter=column.is_indexed
    )
