"""Refresh of one aggregate: its changed buckets are recomputed, in one transaction that no reader waits for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from etl import queries
from etl.errors import DefinitionError, InternalError, UsageError
from etl.precalculation.buckets import EVERYTHING, BucketRange
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.pending import gather, is_known, take_due

_SQL = queries.load("precalculation")
_COMMA = sql.SQL(", ")
# SQLSTATE classes of rows that the select or the table of an aggregate cannot take: cardinality, data, constraints.
_BY_DATA = {"21", "22", "23"}


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What a refresh did: buckets recomputed, rows inserted, updated or deleted, and the seconds it took."""

    aggregate: str
    buckets: int
    rows: int
    seconds: float


def refresh(connection: psycopg.Connection, aggregate: Aggregate, *, run: str | None, full: bool = False) -> Refreshed:
    """Bring an aggregate up to date with the facts, all of it or nothing.

    Buckets that did not change are left alone, unless `full` or another definition asks for all. `connection` is in
    autocommit mode and outside a transaction; `run` is the run that asks, or None. Refreshes of one aggregate queue.
    Readers see the old rows until the commit; a row that does not change is not written. Raises UsageError when a
    table or the right to it is missing or the rows of the select do not fit, psycopg's errors for all else.
    """
    if not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE:
        raise InternalError("expected an autocommit connection outside a transaction for a refresh")
    # The lock comes before BEGIN: an older snapshot could not update what the refresh before has written.
    with refusals_told(connection, aggregate), _turn(connection, aggregate):
        gather(connection)
        with connection.transaction():
            connection.execute(queries.load("database")["see_one_snapshot"])
            return _recompute(connection, aggregate, run, full=full)


def refresh_all(
    connection: psycopg.Connection, aggregates: Iterable[Aggregate], *, run: str | None, full: bool = False
) -> Iterator[Refreshed]:
    """Refresh one aggregate after the other; yield each when it is done.

    One that cannot be computed keeps no other from its refresh: UsageError is raised at the end, with what is wrong
    with the first and the names of the rest.
    """
    failed: dict[str, UsageError] = {}
    for aggregate in aggregates:
        try:
            done = refresh(connection, aggregate, run=run, full=full)
        except UsageError as error:
            failed[aggregate.name] = error
        else:
            yield done
    if failed:
        first, *others = failed
        also = f"; nor could these be refreshed: {', '.join(others)}" if others else ""
        raise type(failed[first])(f"{failed[first]}{also}", hint=failed[first].hint) from failed[first]


@contextmanager
def refusals_told(connection: psycopg.Connection, aggregate: Aggregate) -> Iterator[None]:
    """Turn what is wrong with one aggregate, and not with the database, into UsageError with the remedy."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the user {connection.info.user} may not refresh {aggregate.name}: {error.diag.message_primary}",
            hint=f"grant etl_loader to {connection.info.user}",
        ) from error
    except psycopg.Error as error:
        kind = (error.sqlstate or "")[:2]
        if kind == "42":
            told = f"{aggregate.name} cannot be computed: {error.diag.message_primary}"
            raise UsageError(told, hint="etl db migrate") from error
        if kind in _BY_DATA:
            told, hint = _misfit(aggregate, error)
            raise DefinitionError(
                f"{aggregate.name} cannot be computed: {told}, in {aggregate.path}", hint=hint
            ) from error
        raise


def _misfit(aggregate: Aggregate, error: psycopg.Error) -> tuple[str, str]:
    """Tell why rows cannot be computed or stored, and the remedy; the server's sentence may quote a value."""
    if isinstance(error, psycopg.errors.NotNullViolation) and error.diag.column_name in aggregate.key:
        name = error.diag.column_name
        return f"{name} of the key is null in a row", f"coalesce({name}, '(none)'), or leave such rows out"
    constraint = error.diag.constraint_name or ""
    if isinstance(error, psycopg.errors.UniqueViolation) and constraint.endswith("_pkey"):
        return f"several rows have the same key ({', '.join(aggregate.key)})", "group by the key, and by nothing else"
    if isinstance(error, psycopg.errors.CardinalityViolation):
        return str(error.diag.message_primary), "group by the key, and let each subquery give one row"
    of = f" of {constraint}" if constraint else ""
    return f"{type(error).__name__}{of}, SQLSTATE {error.sqlstate}", "let the select take whatever the facts hold"


@contextmanager
def _turn(connection: psycopg.Connection, aggregate: Aggregate) -> Iterator[None]:
    connection.execute(_SQL["lock"], {"aggregate": aggregate.name})
    try:
        yield
    finally:
        # A connection that was lost has released the lock already.
        if not connection.closed:
            connection.execute(_SQL["unlock"], {"aggregate": aggregate.name})


def _recompute(connection: psycopg.Connection, aggregate: Aggregate, run: str | None, *, full: bool) -> Refreshed:
    ranges, buckets = take_due(connection, aggregate)
    if full or not is_known(connection, aggregate):
        ranges = [EVERYTHING]
    if not ranges:
        return Refreshed(aggregate=aggregate.name, buckets=0, rows=0, seconds=_note(connection, aggregate))
    compute(connection, aggregate, ranges)
    rows = _store(connection, aggregate, ranges)
    is_full = EVERYTHING in ranges
    if is_full:
        buckets = _count_buckets(connection, aggregate)
    did = {"run": run, "mode": "full" if is_full else "incremental", "buckets": buckets}
    return Refreshed(aggregate=aggregate.name, buckets=buckets, rows=rows, seconds=_note(connection, aggregate, did))


def compute(connection: psycopg.Connection, aggregate: Aggregate, ranges: Sequence[BucketRange]) -> None:
    """Compute these buckets into the temporary table `etl_fresh`, which goes with the transaction."""
    connection.execute(_SQL["use_one_processor"])
    connection.execute(_SQL["make_fresh"].format(select=aggregate.computed(ranges[0])))
    for buckets in ranges[1:]:
        connection.execute(_SQL["add_fresh"].format(select=aggregate.computed(buckets)))
    connection.execute(_SQL["analyze_fresh"])


def _store(connection: psycopg.Connection, aggregate: Aggregate, ranges: Sequence[BucketRange]) -> int:
    names = [name for name, _ in aggregate.columns]
    values = [name for name in names if name not in aggregate.key]
    same_key = joined(aggregate.key, sql.SQL("kept.{0} = fresh.{0}"), sql.SQL(" and "))
    within = sql.SQL(" or ").join(aggregate.within(buckets) for buckets in ranges)
    deleted = connection.execute(
        _SQL["delete_gone"].format(table=aggregate.identifier, within=within, same_key=same_key)
    ).rowcount
    merged = connection.execute(
        _SQL["merge_changed"].format(
            table=aggregate.identifier,
            same_key=same_key,
            within=within,
            kept_values=joined(values, sql.SQL("kept.{0}")),
            fresh_values=joined(values, sql.SQL("fresh.{0}")),
            assignments=joined(values, sql.SQL("{0} = fresh.{0}")),
            columns=joined(names, sql.SQL("{0}")),
            fresh_columns=joined(names, sql.SQL("fresh.{0}")),
        )
    ).rowcount
    return deleted + merged


def _count_buckets(connection: psycopg.Connection, aggregate: Aggregate) -> int:
    bucket = sql.Literal("all") if aggregate.bucket == "all" else sql.Identifier(aggregate.bucket)
    row = connection.execute(_SQL["count_buckets"].format(bucket=bucket)).fetchone()
    return int(row[0]) if row else 0


def _note(connection: psycopg.Connection, aggregate: Aggregate, did: Mapping[str, object] | None = None) -> float:
    """Note how fresh the aggregate is now, and what was done if anything was; return the seconds it took."""
    name = sql.Literal(aggregate.name)
    table, column = aggregate.newest
    statement = _SQL["note_refresh" if did else "note_nothing_to_do"].format(
        aggregate=name,
        table=aggregate.identifier,
        definition_hash=sql.Literal(aggregate.hash),
        newest_run=_SQL["newest_run"].format(aggregate=name),
        newest_event_at=_SQL["newest_event"].format(
            column=sql.Identifier(column), table=sql.Identifier(*table.split("."))
        ),
        **{word: sql.Literal(value) for word, value in (did or {}).items()},
    )
    row = connection.execute(statement).fetchone()
    if row is None:
        raise InternalError(f"expected the freshness of {aggregate.name} to be noted, got no row")
    return float(row[0])


def joined(names: Iterable[str], pattern: sql.SQL, separator: sql.SQL = _COMMA) -> sql.Composed:
    """Return a list of columns, each as the pattern has it."""
    return separator.join(pattern.format(sql.Identifier(name)) for name in names)
