"""The refresh of an aggregate: its changed buckets are recomputed in one transaction. Readers do not wait for it."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeAlias

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from etl import queries
from etl.database.snapshots import Snapshots
from etl.database.sqlstates import code_of, condition, exit_code
from etl.database.tables import see_all_rows
from etl.errors import DatabaseError, DefinitionError, EtlError, ExitCode, InternalError, UsageError, gravest
from etl.precalculation import idle
from etl.precalculation.buckets import EVERYTHING, BucketRange
from etl.precalculation.catalogue import Aggregate
from etl.precalculation.pending import gather, take_due
from etl.quick_dataclasses import dataclass
from etl.settings import lineage_is_on

_SQL = queries.load("precalculation")
_COMMA = sql.SQL(", ")
# Refreshes of small facts take some milliseconds each, as their commits do: they share one. Readers see the rows
# after the last of them, so a refresh that takes longer is committed at once.
_TOGETHER_SECONDS = 0.3
# The function of the server that refuses a statement from which a policy would hide rows.
_ROW_SECURITY = "check_enable_rls"
# SQLSTATE classes of objects that are missing or of another kind: a schema, and all others.
_BY_OBJECTS = {"3F", "42"}
# SQLSTATE classes of rows that the select or the table of an aggregate refuses: cardinality, data, constraints.
_BY_DATA = {"21", "22", "23"}


Waiting: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Gives the context in which a refresh waits for another one: a signal may end it there."""


@dataclass(frozen=True, kw_only=True)
class RefreshResult:
    """What a refresh did: buckets recomputed; rows inserted, updated or deleted; and its duration in seconds."""

    aggregate: str
    buckets: int
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NotRefreshed:
    """An aggregate that cannot be refreshed, and why; the cause of the error is that of the server."""

    aggregate: str
    error: EtlError


def refresh(
    connection: psycopg.Connection,
    aggregate: Aggregate,
    *,
    run: str | None,
    full: bool = False,
    waiting: Waiting = nullcontext,
) -> RefreshResult:
    """Bring an aggregate up to date with the facts, as a whole or not at all.

    Only changed buckets are recomputed; with `full`, or after a change of the definition, all of them. Its parts are
    refreshed before it in the same transaction, so that it is computed from the same snapshot. `connection` is
    in autocommit mode and outside a transaction; `run` is the run that caused the refresh, or None. Refreshes of one
    aggregate wait for each other. Readers see the old rows until the commit; unchanged rows are not written.

    Raises UsageError when a table or a right on it is missing, or the rows of the select do not fit; psycopg's errors
    otherwise (see `own_error`).
    """
    if not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE:
        raise InternalError("expected an autocommit connection outside a transaction for a refresh")
    if lineage_is_on():
        from etl import lineage  # noqa: PLC0415 - imports nothing unless it is configured

        facts = [fact.table for fact in aggregate.facts]
        about = lineage.refreshing(
            connection, aggregate.name, aggregate.columns, table=aggregate.table, facts=facts, run=run
        )
        with about as changed:
            result = _refresh(connection, aggregate, run, waiting, full=full)
            changed["rows"] = result.rows
        return result
    return _refresh(connection, aggregate, run, waiting, full=full)


def _refresh(
    connection: psycopg.Connection, aggregate: Aggregate, run: str | None, waiting: Waiting, *, full: bool
) -> RefreshResult:
    return _refresh_together(connection, [aggregate], run, waiting, full=full)[aggregate.name]


class _TogetherError(Exception):
    """Aggregates cannot be refreshed in one transaction; nothing was refreshed.

    `aggregate` is the one that fails, with its error as the cause; None: a refresh of each by itself shows it.
    """

    def __init__(self, aggregate: Aggregate | None = None) -> None:
        super().__init__(aggregate)
        self.aggregate = aggregate


def _refresh_together(
    connection: psycopg.Connection,
    aggregates: Sequence[Aggregate],
    run: str | None,
    waiting: Waiting,
    *,
    full: bool,
    past: Collection[str] = (),
) -> dict[str, RefreshResult]:
    """Refresh the first aggregate, and those after it for as long as that is quick, in one transaction.

    Returns what was done, also of their parts: aggregates that another session refreshes now are left. Of those with
    names in `past` only changed buckets are recomputed in any case. Raises _TogetherError when one of several cannot be
    refreshed.
    """
    first, *others = aggregates
    done: dict[str, RefreshResult] = {}
    # The locks come before BEGIN: an older snapshot could not update the rows that the previous refresh wrote.
    with ExitStack() as locks:
        locks.enter_context(explain_errors(connection, first))
        # All sessions wait for locks in the same order, and for none after the first that they only try.
        for needed in sorted((first, *first.parts), key=lambda each: each.name):
            locks.enter_context(_refresh_lock(connection, needed, waiting))
        free = locks.enter_context(_free_locks(connection, others))
        gather(connection)
        snapshots = Snapshots(connection, tables_of([first, *free]))
        while not snapshots.is_whole:
            try:
                with snapshots.next():
                    done = _recompute_quick(connection, [first, *free], run, past, full=full)
            except psycopg.Error as error:  # about a table of one of them
                if connection.closed or not free:
                    raise
                raise _TogetherError from error
    return done


def _recompute_quick(
    connection: psycopg.Connection,
    aggregates: Sequence[Aggregate],
    run: str | None,
    past: Collection[str],
    *,
    full: bool,
) -> dict[str, RefreshResult]:
    """Recompute the first aggregate, and those after it until the time is over; the parts of each before it."""
    until = time.monotonic() + _TOGETHER_SECONDS
    done: dict[str, RefreshResult] = {}
    for aggregate in aggregates:
        if done and time.monotonic() > until:
            break
        try:
            for each in (*aggregate.parts, aggregate):
                if each.name not in done:
                    with explain_errors(connection, each):
                        done[each.name] = _recompute(connection, each, run, full=full and each.name not in past)
        except (UsageError, psycopg.Error) as error:
            if connection.closed or len(aggregates) == 1:
                raise
            raise _TogetherError(aggregate) from error
    return done


def tables_of(aggregates: Iterable[Aggregate]) -> set[str]:
    """Return the tables that a refresh of these aggregates reads and writes, but for tables without triggers."""
    return {name for each in aggregates for name in each.tables}


def refresh_all(
    connection: psycopg.Connection, aggregates: Sequence[Aggregate], *, run: str | None, full: bool = False
) -> Iterator[RefreshResult]:
    """Refresh one aggregate after another; yield the result of each.

    Raises as `refresh_each` and `require_all_refreshed` do.
    """
    failed: dict[str, EtlError] = {}
    for result in refresh_each(connection, aggregates, run=run, full=full):
        if isinstance(result, NotRefreshed):
            failed[result.aggregate] = result.error
        else:
            yield result
    require_all_refreshed(failed)


def refresh_each(
    connection: psycopg.Connection,
    aggregates: Sequence[Aggregate],
    *,
    run: str | None,
    full: bool = False,
    waiting: Waiting = nullcontext,
    before_each: Callable[[], None] = lambda: None,
) -> Iterator[RefreshResult | NotRefreshed]:
    """Refresh one aggregate after another; one that cannot be refreshed does not stop the others, whatever the reason.

    Those with nothing to do are recorded together, and quick ones are refreshed in one transaction. Raises psycopg's
    errors when the connection is lost, and what `before_each` raises, which is called before each refresh.
    """
    before_each()
    connection.execute(_SQL["note_lost_partitions"])
    recorded = {} if full else idle.record(connection, aggregates)
    done: dict[str, RefreshResult | NotRefreshed] = {
        name: RefreshResult(aggregate=name, buckets=0, rows=0, seconds=seconds) for name, seconds in recorded.items()
    }
    most = 1 if lineage_is_on() else len(aggregates)
    for number, aggregate in enumerate(aggregates):
        while aggregate.name not in done:
            before_each()
            left = [each for each in aggregates[number:] if each.name not in done][:most]
            try:
                if len(left) > 1:
                    for name, result in _refresh_together(connection, left, run, waiting, full=full, past=done).items():
                        done.setdefault(name, result)
                else:
                    done[aggregate.name] = refresh(connection, aggregate, run=run, full=full, waiting=waiting)
            except _TogetherError as error:
                if error.aggregate is None:
                    most = 1
                else:
                    done[error.aggregate.name] = _not_refreshed(connection, error.aggregate, error.__cause__)
            except (UsageError, psycopg.Error) as error:
                done[aggregate.name] = _not_refreshed(connection, aggregate, error)
        yield done[aggregate.name]


def _not_refreshed(connection: psycopg.Connection, aggregate: Aggregate, error: BaseException | None) -> NotRefreshed:
    """Return the error of an aggregate as its own. Raises psycopg's error when the connection is lost."""
    if isinstance(error, UsageError):
        return NotRefreshed(aggregate=aggregate.name, error=error)
    if not isinstance(error, psycopg.Error):
        raise InternalError(f"expected an error of the server, got {type(error).__name__}")
    own = own_error(connection, aggregate, error)
    own.__cause__ = error
    return NotRefreshed(aggregate=aggregate.name, error=own)


def require_all_refreshed(failed: Mapping[str, EtlError]) -> None:
    """Raise the gravest error of the aggregates that cannot be refreshed, with the names of the others."""
    if failed:
        code = gravest(error.exit_code for error in failed.values())
        first = next(name for name, error in failed.items() if error.exit_code == code)
        others = [name for name in failed if name != first]
        also = f"; these could not be refreshed either: {', '.join(others)}" if others else ""
        raise type(failed[first])(f"{failed[first]}{also}", hint=failed[first].hint) from failed[first]


@contextmanager
def explain_errors(connection: psycopg.Connection, aggregate: Aggregate) -> Iterator[None]:
    """Turn an error that a person can only put right in the aggregate, or in its rights, into one with the remedy."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"the user {connection.info.user} may not refresh {aggregate.name}: {_sentence(error)}",
            hint=see_all_rows(connection.info.user)
            if error.diag.source_function == _ROW_SECURITY
            else f"grant etl_loader to {connection.info.user}",
        ) from error
    except psycopg.Error as error:
        code = code_of(error)
        if connection.closed or code is None:
            raise
        kind = code[:2]
        if kind in _BY_OBJECTS:
            message = f"{aggregate.name} cannot be computed: {_sentence(error)}"
            raise UsageError(message, hint="etl db migrate") from error
        if kind in _BY_DATA:
            reason, hint = _reason(aggregate, error)
            raise DefinitionError(
                f"{aggregate.name} cannot be computed: {reason}, in {aggregate.path}", hint=hint
            ) from error
        raise


def own_error(connection: psycopg.Connection, aggregate: Aggregate, error: psycopg.Error) -> EtlError:
    """Return any other error of the server as one of the aggregate, with what to do next.

    Raises the error itself when the connection is lost.
    """
    code = code_of(error)
    if connection.closed or code is None:
        raise error
    message = f"{aggregate.name} cannot be refreshed: {condition(code)}, SQLSTATE {code}"
    if exit_code(code) == ExitCode.USAGE:
        return UsageError(
            f"{message}, in {aggregate.path}",
            hint="etl db check; look at the functions that the select calls, and at the publications of its tables",
        )
    return DatabaseError(message, hint=f"run etl precalculate {aggregate.name} again")


def _sentence(error: psycopg.Error) -> str:
    """Return the server's sentence on its own objects; a function of the database may quote a value in another one."""
    diag, code = error.diag, code_of(error) or ""
    if diag.source_function == "exec_stmt_raise" or diag.internal_query is not None:
        return f"{condition(code)}, SQLSTATE {code}"
    return str(diag.message_primary)


def _reason(aggregate: Aggregate, error: psycopg.Error) -> tuple[str, str]:
    """Return why rows cannot be computed or stored, and the remedy. The server's own message may quote a value."""
    if isinstance(error, psycopg.errors.NotNullViolation) and error.diag.column_name in aggregate.key:
        name = error.diag.column_name
        return f"{name} of the key is null in a row", f"coalesce({name}, '(none)'), or leave such rows out"
    constraint = error.diag.constraint_name or ""
    if isinstance(error, psycopg.errors.UniqueViolation) and constraint.endswith("_pkey"):
        return f"several rows have the same key ({', '.join(aggregate.key)})", "group by the key only"
    if isinstance(error, psycopg.errors.CardinalityViolation):
        return _sentence(error), "group by the key; each subquery must return one row"
    of = f" of {constraint}" if constraint else ""
    return (
        f"{type(error).__name__}{of}, SQLSTATE {code_of(error)}",
        "make the select accept every value of the facts",
    )


@contextmanager
def _refresh_lock(connection: psycopg.Connection, aggregate: Aggregate, waiting: Waiting) -> Iterator[None]:
    with waiting():
        connection.execute(_SQL["lock"], {"aggregate": aggregate.name})
    try:
        yield
    finally:
        # A lost connection has released the lock already.
        if not connection.closed:
            connection.execute(_SQL["unlock"], {"aggregate": aggregate.name})


@contextmanager
def _free_locks(connection: psycopg.Connection, aggregates: Sequence[Aggregate]) -> Iterator[list[Aggregate]]:
    """Yield the aggregates that no other session refreshes now, with their locks."""
    if not aggregates:
        yield []
        return
    asked = {"aggregates": sorted({each.name for aggregate in aggregates for each in (aggregate, *aggregate.parts)})}
    locked = {name for (name,) in connection.execute(_SQL["try_locks"], asked)}
    try:
        yield [each for each in aggregates if locked.issuperset({each.name, *each.part_names})]
    finally:
        if not connection.closed:
            connection.execute(_SQL["unlock_several"], {"aggregates": list(locked)})


def _recompute(connection: psycopg.Connection, aggregate: Aggregate, run: str | None, *, full: bool) -> RefreshResult:
    values = {"aggregate": aggregate.name, "definition_hash": aggregate.hash}
    [(is_known, is_touched, *times)] = connection.execute(_SQL["begin_refresh"], values).fetchall()
    ranges, buckets = take_due(connection, aggregate, is_touched=is_touched)
    if full or not is_known:
        ranges = [EVERYTHING]
    if not ranges:
        return RefreshResult(aggregate=aggregate.name, buckets=0, rows=0, seconds=_record(connection, aggregate, times))
    compute(connection, aggregate, *map(aggregate.computed, ranges))
    rows = _store(connection, aggregate, ranges)
    is_full = EVERYTHING in ranges
    if is_full:
        buckets = _count_buckets(connection, aggregate)
    mode = "full" if is_full else "incremental"
    work = {"run": run, "mode": mode, "buckets": buckets, "is_changed": rows > 0}
    return RefreshResult(
        aggregate=aggregate.name, buckets=buckets, rows=rows, seconds=_record(connection, aggregate, times, work)
    )


def compute(connection: psycopg.Connection, aggregate: Aggregate, first: sql.Composed, *others: sql.Composed) -> None:
    """Compute these selects into the temporary table `etl_fresh`, which the end of the transaction drops."""
    connection.execute(
        queries.together(
            _SQL["plan_for_readers"],
            _SQL["make_fresh"].format(select=first),
            *(_SQL["add_fresh"].format(select=select) for select in others),
            _SQL["analyze_fresh"].format(key=joined(aggregate.key, sql.SQL("{0}"))),
        )
    )


def _store(connection: psycopg.Connection, aggregate: Aggregate, ranges: Sequence[BucketRange]) -> int:
    names = [name for name, _ in aggregate.columns]
    values = [name for name in names if name not in aggregate.key]
    same_key = joined(aggregate.key, sql.SQL("kept.{0} = fresh.{0}"), sql.SQL(" and "))
    within = sql.SQL(" or ").join(aggregate.within(buckets) for buckets in ranges)
    merge = _SQL["merge_changed"].format(
        table=aggregate.identifier,
        same_key=same_key,
        within=within,
        kept_values=joined(values, sql.SQL("kept.{0}")),
        fresh_values=joined(values, sql.SQL("fresh.{0}")),
        assignments=joined(values, sql.SQL("{0} = fresh.{0}")),
        columns=joined(names, sql.SQL("{0}")),
        fresh_columns=joined(names, sql.SQL("fresh.{0}")),
    )
    # All fresh rows are stored then: only where there are more are some left whose keys no longer exist.
    has_gone = _SQL["has_gone"].format(table=aggregate.identifier, within=within)
    cursor = connection.execute(queries.together(merge, has_gone))
    merged = cursor.rowcount
    cursor.nextset()
    row = cursor.fetchone()
    if row is None or not row[0]:
        return merged
    gone = _SQL["delete_gone"].format(table=aggregate.identifier, within=within, same_key=same_key)
    return merged + connection.execute(gone).rowcount


def _count_buckets(connection: psycopg.Connection, aggregate: Aggregate) -> int:
    bucket = sql.Literal("all") if aggregate.bucket == "all" else sql.Identifier(aggregate.bucket_column)
    row = connection.execute(_SQL["count_buckets"].format(bucket=bucket)).fetchone()
    return int(row[0]) if row else 0


def _record(
    connection: psycopg.Connection,
    aggregate: Aggregate,
    times: Sequence[str],
    work: Mapping[str, object] | None = None,
) -> float:
    """Record how fresh the aggregate is, with the work of a refresh that had some; return its seconds.

    `times` are those of the transaction and of the beginning of the refresh.
    """
    now, began = times
    name = sql.Literal(aggregate.name)
    table, column = aggregate.newest
    event = {
        "column": sql.Identifier(column),
        "table": sql.Identifier(*table.split(".")),
        "now": sql.Literal(now),
    }
    statement = _SQL["record_refresh" if work else "record_nothing_to_do"].format(
        aggregate=name,
        table=aggregate.identifier,
        definition_hash=sql.Literal(aggregate.hash),
        began=sql.Literal(began),
        newest_run=_SQL["newest_run"].format(aggregate=name),
        newest_event_at=_SQL["newest_event"].format(**event),
        future_event_at=_SQL["future_event"].format(**event),
        **{word: sql.Literal(value) for word, value in (work or {}).items()},
    )
    row = connection.execute(statement).fetchone()
    if row is None:
        raise InternalError(f"expected the freshness of {aggregate.name} to be recorded, got no row")
    return float(row[0])


def joined(names: Iterable[str], pattern: sql.SQL, separator: sql.SQL = _COMMA) -> sql.Composed:
    """Return a list of columns, each in the form of the pattern."""
    return separator.join(pattern.format(sql.Identifier(name)) for name in names)
