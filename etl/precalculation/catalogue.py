"""The catalogue of aggregates: each shipped `sql/aggregates/NAME.sql` as a value, and its table.

A file is one `select` under a head, of which every line is read:

    -- One row per day and vehicle.
    -- table: analytics.vehicle_days
    -- facts: logistics.vehicle_logs, logistics.shipments
    -- bucket: day
    -- key: day, vehicle_id
    -- column day: day of the trips
    -- column ...

Knows nothing of when an aggregate is refreshed.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import DefinitionError, UsageError
from etl.settings import shipped

_NAME = r"[a-z_][a-z0-9_]{0,62}"
_NAMES = rf"{_NAME}(?:, {_NAME})*"
_TABLE = rf"{_NAME}\.{_NAME}"
_HEAD = (
    ("grain", r"-- (One row per .+\.)", "-- One row per ... ."),
    ("table", rf"-- table: ({_TABLE})", "-- table: SCHEMA.NAME"),
    ("facts", rf"-- facts: ({_TABLE}(?:, {_TABLE})*)", "-- facts: SCHEMA.TABLE, ..."),
    ("bucket", r"-- bucket: (day|month|all)", "-- bucket: day, month or all"),
    ("key", rf"-- key: ({_NAMES})", "-- key: COLUMN, ..."),
)
_COLUMN = re.compile(rf"-- column ({_NAME}): (\S.*)")

_SQL = queries.load("precalculation")


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A precomputed table: what one row is, the facts it reads, its key and the select that computes it.

    `bucket` is the key column whose values are the buckets (`day` or `month`), or `all`; `columns` are pairs
    of name and comment, in the order of the select.
    """

    name: str
    table: str
    grain: str
    facts: tuple[str, ...]
    bucket: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    select: str
    path: str

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name of its table, quoted."""
        return sql.Identifier(*self.table.split("."))

    @property
    def statement(self) -> sql.SQL:
        """The select, to be put into a statement."""
        return sql.SQL(self.select)

    @property
    def hash(self) -> str:
        """A digest of all that decides which rows the aggregate has."""
        return hashlib.sha256(self.select.encode()).hexdigest()[:16]


def read_all(folder: Path | None = None) -> tuple[Aggregate, ...]:
    """Return the aggregates of a folder, the shipped ones unless said, by name.

    Raises DefinitionError for a file whose head is not as it must be.
    """
    folder = folder or shipped("sql") / "aggregates"
    return tuple(_read(path) for path in sorted(folder.glob("*.sql")))


def choose(names: Sequence[str]) -> tuple[Aggregate, ...]:
    """Return the shipped aggregates of these names, all of them for no name.

    Raises UsageError for a name that no aggregate has.
    """
    known = {aggregate.name: aggregate for aggregate in read_all()}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known aggregates: {', '.join(known)}"
            raise UsageError(f"no aggregate is called {name!r}", hint=hint)
    return tuple(aggregate for name, aggregate in known.items() if not names or name in names)


def aggregates_reading(facts: Iterable[str]) -> tuple[Aggregate, ...]:
    """Return the shipped aggregates that read at least one of these tables."""
    wanted = set(facts)
    return tuple(aggregate for aggregate in read_all() if wanted.intersection(aggregate.facts))


def _read(path: Path) -> Aggregate:
    lines = path.read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for number, (word, pattern, expected) in enumerate(_HEAD, 1):
        line = lines[number - 1] if number <= len(lines) else ""
        match = re.fullmatch(pattern, line)
        if not match:
            raise DefinitionError(f"expected {expected!r}, got {line!r}, in {path} at line {number}")
        found[word] = match[1]
    columns = []
    for number, line in enumerate(lines[len(_HEAD) :], len(_HEAD) + 1):
        if not line.startswith("--"):
            break
        match = _COLUMN.fullmatch(line)
        if not match:
            expected = "-- column NAME: COMMENT"
            raise DefinitionError(f"expected {expected!r}, got {line!r}, in {path} at line {number}")
        columns.append((match[1], match[2]))
    aggregate = Aggregate(
        name=path.stem,
        table=found["table"],
        grain=found["grain"],
        facts=tuple(found["facts"].split(", ")),
        bucket=found["bucket"],
        key=tuple(found["key"].split(", ")),
        columns=tuple(columns),
        select="\n".join(lines[len(_HEAD) + len(columns) :]),
        path=str(path),
    )
    _check(aggregate)
    return aggregate


def _check(aggregate: Aggregate) -> None:
    names = [name for name, _ in aggregate.columns]
    if aggregate.table != f"analytics.{aggregate.name}":
        raise DefinitionError(
            f"expected the table analytics.{aggregate.name}, as the file is called, got {aggregate.table}, "
            f"in {aggregate.path} at line 2"
        )
    if aggregate.bucket not in {"all", *aggregate.key}:
        raise DefinitionError(
            f"expected the bucket {aggregate.bucket} in the key, got {', '.join(aggregate.key)}, "
            f"in {aggregate.path} at line 5"
        )
    missing = [name for name in aggregate.key if name not in names]
    if missing:
        raise DefinitionError(f"expected a '-- column {missing[0]}: ' line for the key, in {aggregate.path}")
    if len(set(names)) < len(names) or len(set(names)) == len(set(aggregate.key)):
        raise DefinitionError(f"expected each column once, and more than the key, in {aggregate.path}")
    if not re.match(r"(select|with)\s", aggregate.select) or aggregate.select.rstrip().endswith(";"):
        line = len(_HEAD) + len(names) + 1
        raise DefinitionError(
            f"expected one select without a semicolon after the head, in {aggregate.path} at line {line}"
        )


def install(connection: psycopg.Connection, aggregates: Iterable[Aggregate]) -> list[str]:
    """Make the tables of the aggregates, with keys, comments and grants; running it again changes nothing.

    A table whose columns or key are no longer those of its definition is made anew, empty and due for a
    refresh: all of it can be computed again. Returns the names of the tables made. Raises DefinitionError
    when a select does not fit its head or the facts, UsageError when something depends on an old table.
    """
    roles = {name for (name,) in connection.execute(_SQL["roles_present"])}
    made = []
    with connection.transaction():
        for aggregate in aggregates:
            if _make(connection, aggregate):
                made.append(aggregate.table)
            _describe(connection, aggregate)
            for role in sorted(roles):
                connection.execute(_SQL[f"grant_to_{role}"].format(table=aggregate.identifier))
        for role in sorted(roles):
            connection.execute(_SQL["grant_freshness"].format(role=sql.Identifier(role)))
        if "etl_loader" in roles:
            connection.execute(_SQL["grant_refreshes_to_etl_loader"])
    return made


def _make(connection: psycopg.Connection, aggregate: Aggregate) -> bool:
    shape = _computed_shape(connection, aggregate)
    if _table_shape(connection, aggregate) == (shape, aggregate.key):
        return False
    connection.execute(_SQL["lock_for_change"], {"aggregate": aggregate.name})
    try:
        connection.execute(_SQL["drop_aggregate"].format(table=aggregate.identifier))
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{aggregate.table} has other columns now, and something depends on the old ones: "
            f"{error.diag.message_detail}",
            hint="drop what depends on it, run etl db migrate, and make it again",
        ) from error
    connection.execute(_SQL["create_aggregate"].format(table=aggregate.identifier, select=aggregate.statement))
    key = sql.SQL(", ").join(map(sql.Identifier, aggregate.key))
    connection.execute(_SQL["add_primary_key"].format(table=aggregate.identifier, key=key))
    connection.execute(_SQL["forget_refresh"], {"aggregate": aggregate.name})
    return True


def _computed_shape(connection: psycopg.Connection, aggregate: Aggregate) -> list[tuple[str, str]]:
    try:
        shape = _shape(connection.execute(_SQL["select_shape"].format(select=aggregate.statement)))
    except psycopg.errors.ProgrammingError as error:
        raise DefinitionError(
            f"{aggregate.name} cannot be computed: {error.diag.message_primary}, in {aggregate.path}",
            hint="compare the dataset definitions with the facts that it reads",
        ) from error
    expected, got = [name for name, _ in aggregate.columns], [name for name, _ in shape]
    if expected != got:
        raise DefinitionError(
            f"expected the columns of the head ({', '.join(expected)}), got {', '.join(got)}, in {aggregate.path}"
        )
    return shape


def _table_shape(
    connection: psycopg.Connection, aggregate: Aggregate
) -> tuple[list[tuple[str, str]], tuple[str, ...]] | None:
    row = connection.execute(_SQL["table_exists"], {"table": aggregate.table}).fetchone()
    if not row or not row[0]:
        return None
    shape = _shape(connection.execute(_SQL["table_shape"].format(table=aggregate.identifier)))
    key = connection.execute(_SQL["primary_key"], {"table": aggregate.table})
    return shape, tuple(name for (name,) in key)


def _shape(cursor: psycopg.Cursor[tuple[object, ...]]) -> list[tuple[str, str]]:
    return [(column.name, column.type_display) for column in cursor.description or ()]


def _describe(connection: psycopg.Connection, aggregate: Aggregate) -> None:
    connection.execute(_SQL["comment_table"].format(table=aggregate.identifier, comment=sql.Literal(aggregate.grain)))
    for name, comment in aggregate.columns:
        column = sql.Identifier(*aggregate.table.split("."), name)
        connection.execute(_SQL["comment_column"].format(column=column, comment=sql.Literal(comment)))
