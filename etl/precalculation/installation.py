"""What aggregates need in the database: their tables, their registration, and the triggers of their facts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.database.migrations import denied
from etl.database.sqlstates import code_of, condition
from etl.errors import DefinitionError, EtlError, UsageError, combined
from etl.precalculation import triggers
from etl.precalculation.buckets import KINDS
from etl.precalculation.catalogue import Aggregate, Fact
from etl.precalculation.pending import is_known

_SQL = queries.load("installation")
_TABLES = queries.load("tables")

log = structlog.get_logger(__name__)


def install(connection: psycopg.Connection, aggregates: Sequence[Aggregate], datasets: Mapping[str, str]) -> list[str]:
    """Make tables, keys, comments, grants and triggers. Running it again changes nothing.

    `datasets` maps each fact to the dataset that loads it. A table whose columns or key differ from its definition is
    made again, empty and due for a refresh: all of it can be computed again. Where the definition only has more columns
    at its end, these are added. Returns the names of the new tables.

    An aggregate that cannot be installed hinders no other. Raises at the end DefinitionError when a file does not fit
    the facts, UsageError when other objects depend on an old table.
    """
    roles = sorted(name for (name,) in connection.execute(queries.load("database")["roles_present"]))
    new_tables = []
    installed: list[Aggregate] = []
    errors: list[EtlError] = []
    with connection.transaction():
        connection.execute(queries.load("database")["hush_notices"])
        kinds = sql.SQL(", ").join(sql.Literal(kind.name) for kind in KINDS.values() if kind.noting)
        connection.execute(_SQL["make_bucket_of"].format(kinds=kinds))
        for aggregate in sorted(aggregates, key=lambda aggregate: bool(aggregate.parts)):  # parts first
            with _by_itself(connection, aggregate.name, errors):
                is_new = _make(connection, aggregate)
                _describe(connection, aggregate)
                for role in roles:
                    connection.execute(_SQL[f"grant_to_{role}"].format(table=aggregate.identifier))
                _register(connection, aggregate, datasets)
                new_tables += [aggregate.table] * is_new
                installed.append(aggregate)
        _watch_facts(connection, {fact.table for aggregate in installed for fact in aggregate.facts}, errors)
        for aggregate in installed:
            # The refresh would recompute it anyway. With this entry analytics.freshness shows that it is pending.
            if not is_known(connection, aggregate):
                connection.execute(_SQL["add_pending_whole"], {"aggregate": aggregate.name})
        for role in roles:
            connection.execute(_SQL["grant_freshness"].format(role=sql.Identifier(role)))
    if errors:
        raise combined(errors)
    return new_tables


@contextmanager
def _by_itself(connection: psycopg.Connection, name: str, errors: list[EtlError]) -> Iterator[None]:
    """Let an error in this block undo the block only, and add it to `errors`, unless it is for the whole migration."""
    try:
        with connection.transaction():
            yield
    except UsageError as error:
        errors.append(error)
    except psycopg.Error as error:
        code = code_of(error)
        if connection.closed or code is None:
            raise
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            errors.append(denied(connection, error))
            return
        errors.append(UsageError(f"{name} cannot be installed: {condition(code)}, SQLSTATE {code}"))


def _watch_facts(connection: psycopg.Connection, facts: Iterable[str], errors: list[EtlError]) -> None:
    """Make the triggers of facts; those that were not watched make their aggregates pending as a whole."""
    for fact in sorted(facts):
        with _by_itself(connection, f"the triggers of {fact}", errors):
            for unnoted in triggers.install(connection, [fact]):
                add_pending_all(connection, unnoted)


def watch_again(connection: psycopg.Connection) -> None:
    """Make the missing triggers of facts, and make the aggregates that read such a fact pending as a whole.

    Where the triggers of a fact cannot be made, a warning is logged; `etl db check` reports it, too.
    """
    errors: list[EtlError] = []
    with connection.transaction():
        _watch_facts(connection, unwatched(connection), errors)
    for error in errors:
        log.warning("triggers_missing", reason=str(error), hint=error.hint)


def add_pending_all(connection: psycopg.Connection, fact: str) -> None:
    """Make whatever follows the changes of a fact pending as a whole."""
    connection.execute(_SQL["add_pending_all"], {"fact": fact})


def unwatched(connection: psycopg.Connection) -> list[str]:
    """List the facts whose changes are not noted, because a trigger is missing or disabled."""
    return [fact for (fact,) in connection.execute(_SQL["unwatched"])]


def divided(connection: psycopg.Connection) -> list[tuple[str, list[str]]]:
    """List the facts with partitions or inheriting tables, each with its aggregates.

    Changes by the name of such a part are not noted, and neither is a part that is attached, detached or dropped.
    """
    return connection.execute(_SQL["divided"]).fetchall()


def ddl(connection: psycopg.Connection, aggregate: Aggregate) -> list[sql.Composed]:
    """Return the statements that make the table of an installed aggregate and the triggers of its facts."""
    facts = sorted({fact.table for fact in aggregate.facts})
    return [
        *_table(aggregate),
        *_comments(aggregate),
        *(statement for fact in facts for statement in triggers.ddl(connection, fact)),
    ]


def _make(connection: psycopg.Connection, aggregate: Aggregate) -> bool:
    shape = _computed_shape(connection, aggregate)
    kept, key = _table_shape(connection, aggregate) or ([], ())
    if (kept, key) == (shape, aggregate.key):
        return False
    if connection.execute(_SQL["is_fact"], {"table": aggregate.table}).fetchone() == (True,):
        raise UsageError(
            f"{aggregate.table} holds the rows of a dataset, and the aggregate {aggregate.name} would replace it",
            hint=f"give the aggregate another name: {aggregate.path}",
        )
    connection.execute(_SQL["lock_for_change"], {"aggregate": aggregate.name})
    connection.execute(_SQL["forget_refresh"], {"aggregate": aggregate.name})
    if key == aggregate.key and kept == shape[: len(kept)]:
        _add_columns(connection, aggregate, len(kept))
        return False
    try:
        connection.execute(_TABLES["drop"].format(table=aggregate.identifier))
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UsageError(
            f"{aggregate.table} has other columns now, and other objects depend on the old ones: "
            f"{error.diag.message_detail}",
            hint="drop these objects, run etl db migrate, and create them again",
        ) from error
    for statement in _table(aggregate):
        connection.execute(statement)
    return True


def _add_columns(connection: psycopg.Connection, aggregate: Aggregate, count_kept: int) -> None:
    """Add the columns after the first `count_kept` to the table, whose views and rows stay; a refresh fills them."""
    connection.execute(_SQL["make_shape"].format(select=aggregate.computed()))
    for name, kind in connection.execute(_SQL["columns_of_shape"], {"count_kept": count_kept}).fetchall():
        statement = _TABLES["add_column"].format(
            table=aggregate.identifier, column=sql.Identifier(name), type=sql.SQL(kind)
        )
        connection.execute(statement)
    connection.execute(_SQL["drop_shape"])


def _table(aggregate: Aggregate) -> list[sql.Composed]:
    key = sql.SQL(", ").join(map(sql.Identifier, aggregate.key))
    return [
        _SQL["create_aggregate"].format(table=aggregate.identifier, select=aggregate.computed()),
        _TABLES["add_primary_key"].format(table=aggregate.identifier, key=key),
    ]


def _computed_shape(connection: psycopg.Connection, aggregate: Aggregate) -> list[tuple[str, str]]:
    try:
        shape = _shape(connection.execute(_SQL["select_shape"].format(select=aggregate.computed())))
    except psycopg.errors.ProgrammingError as error:
        raise DefinitionError(
            f"{aggregate.name} cannot be computed: {error.diag.message_primary}, in {aggregate.path}",
            hint="compare the dataset definitions with the facts that it reads",
        ) from error
    except psycopg.errors.DataError as error:  # An invalid constant such as 'x'::date fails without any row.
        raise DefinitionError(
            f"{aggregate.name} cannot be computed: {type(error).__name__}, SQLSTATE {error.sqlstate},"
            f" in {aggregate.path}"
        ) from error
    expected, got = [name for name, _ in aggregate.columns], [name for name, _ in shape]
    if expected != got:
        raise DefinitionError(
            f"expected the columns of the head ({', '.join(expected)}), got {', '.join(got)}, in {aggregate.path}"
        )
    noting = aggregate.kind.noting
    if noting and dict(shape)[aggregate.bucket_column] != noting.bucket_type:
        raise DefinitionError(
            f"expected a column {aggregate.bucket_column} of type {noting.bucket_type},"
            f" got {dict(shape)[aggregate.bucket_column]}, in {aggregate.path}"
        )
    return shape


def _table_shape(
    connection: psycopg.Connection, aggregate: Aggregate
) -> tuple[list[tuple[str, str]], tuple[str, ...]] | None:
    row = connection.execute(_TABLES["exists"], {"table": aggregate.table}).fetchone()
    if not row or not row[0]:
        return None
    shape = _shape(connection.execute(_SQL["table_shape"].format(table=aggregate.identifier)))
    key = connection.execute(_SQL["primary_key"], {"table": aggregate.table})
    return shape, tuple(name for (name,) in key)


def _shape(cursor: psycopg.Cursor[Any]) -> list[tuple[str, str]]:
    return [(column.name, column.type_display) for column in cursor.description or ()]


def _describe(connection: psycopg.Connection, aggregate: Aggregate) -> None:
    for statement in _comments(aggregate):
        connection.execute(statement)


def _comments(aggregate: Aggregate) -> list[sql.Composed]:
    grain = sql.Literal(aggregate.grain)
    statements = [_SQL["comment_table"].format(table=aggregate.identifier, comment=grain)]
    for name, comment in aggregate.columns:
        column = sql.Identifier(*aggregate.table.split("."), name)
        statements.append(_TABLES["comment_column"].format(column=column, comment=sql.Literal(comment)))
    return statements


def _register(connection: psycopg.Connection, aggregate: Aggregate, datasets: Mapping[str, str]) -> None:
    """Register the aggregate and how its facts lead to its buckets."""
    name = {"aggregate": aggregate.name}
    loaders = sorted({datasets[fact.table] for fact in aggregate.facts if fact.table in datasets})
    connection.execute(
        _SQL["register"], name | {"grain": aggregate.grain, "bucket": aggregate.bucket, "datasets": loaders}
    )
    watches = [_watch(connection, aggregate, fact) for fact in aggregate.facts]
    registered = connection.execute(_SQL["watches"], name).fetchall()
    if sorted(registered, key=_in_order) == sorted((tuple(watch.values()) for watch in watches), key=_in_order):
        return
    if not registered:
        # Changes before the registration were not noted for it.
        connection.execute(_SQL["add_pending_whole"], name)
    connection.execute(_SQL["forget_watches"], name)
    for watch in watches:
        connection.execute(_SQL["watch"], name | watch)
    for fact in aggregate.facts:
        _try(connection, aggregate, fact)


def _in_order(watch: tuple[Any, ...]) -> tuple[str, str]:
    return watch[:2]


def _watch(connection: psycopg.Connection, aggregate: Aggregate, fact: Fact) -> dict[str, str | None]:
    watch: dict[str, str | None] = {"fact": fact.table, "noted": fact.noted}
    watch |= dict.fromkeys(("via_table", "via_column", "via_type", "via_day"))
    if fact.via is not None:
        table, column = fact.via
        day = next(other.noted for other in aggregate.facts if other.table == table and other.via is None)
        kind = connection.execute(_SQL["column_type"], {"table": table, "column": column}).fetchone()
        if kind is None:
            raise DefinitionError(f"expected a column {column} of {table}, got none, in {aggregate.path}")
        watch |= {"via_table": table, "via_column": column, "via_type": kind[0], "via_day": day}
    return watch


def _try(connection: psycopg.Connection, aggregate: Aggregate, fact: Fact) -> None:
    """Raise DefinitionError when triggers cannot note the expression of a fact: of another type, or not immutable."""
    noting = aggregate.kind.noting
    if noting is None:
        return
    try:
        shape = _shape(
            connection.execute(_SQL["try_noted"].format(fact=fact.identifier, noted=sql.SQL(fact.noted))),
        )
        if fact.via is None and shape[0][1] != noting.type:
            raise DefinitionError(
                f"expected a {noting.type} from {fact.noted!r} of {fact.table}, got {shape[0][1]}, in {aggregate.path}"
            )
        if fact.via is not None:
            _try_key(connection, aggregate, fact, fact.via)
        connection.execute(_SQL["make_try"].format(fact=fact.identifier))
        connection.execute(_SQL["try_immutable"].format(noted=sql.SQL(fact.noted)))
        connection.execute(_SQL["drop_try"])
    except (psycopg.errors.ProgrammingError, psycopg.errors.InvalidObjectDefinition) as error:
        raise DefinitionError(
            f"{fact.noted!r} of {fact.table} cannot be noted: {error.diag.message_primary}, in {aggregate.path}"
        ) from error


def _try_key(connection: psycopg.Connection, aggregate: Aggregate, fact: Fact, via: tuple[str, str]) -> None:
    """Raise DefinitionError when a noted key may not be a value of the column that is searched for it."""
    table, column = via
    noted, searched = _shape(
        connection.execute(
            _SQL["try_key"].format(
                fact=fact.identifier,
                noted=sql.Identifier(fact.noted),
                via=sql.Identifier(*table.split(".")),
                column=sql.Identifier(column),
            )
        )
    )
    kinds = [kind.partition("(")[0] for _, kind in (noted, searched)]
    if kinds[0] != kinds[1] and kinds[1] not in {"text", "varchar"}:
        raise DefinitionError(
            f"expected {fact.noted} of {fact.table} to be of the type of {table}.{column}, "
            f"got {kinds[0]} and {kinds[1]}, in {aggregate.path}"
        )
