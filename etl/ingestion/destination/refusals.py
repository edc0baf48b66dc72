"""What an error of the database means for a load, and the error that ends the attempt.

`etl.database.sqlstates` has the table of SQLSTATEs; no other module of the ingestion reads one.
"""

import re
from collections.abc import Sequence

import psycopg

from etl.database import sqlstates
from etl.database.connecting import Database
from etl.database.obstacles import Obstacle, find_cause
from etl.database.sqlstates import Meaning, code_of, condition
from etl.datasets import Table
from etl.errors import DatabaseError, EtlError, InternalError, UsageError
from etl.ingestion.values import Fault

__all__ = [
    "Meaning",
    "as_etl_error",
    "cause_of",
    "condition",
    "explained",
    "fault",
    "is_contended",
    "is_transient",
    "may_be_of_value",
    "may_be_refreshed",
    "meaning",
    "not_published",
]

meaning = sqlstates.meaning

_CONTINUE = "run the same command to continue where the ledger stops"
_WRITABLE = "name the primary server (target_session_attrs=read-write); the same command continues there"

PARTITION_CHECK = "etl_partition"
"""The check of a staging table that a partition of its fact holds each row."""


def is_transient(error: BaseException) -> bool:
    """Return whether another try may succeed."""
    return isinstance(error, psycopg.Error) and meaning(error) in {"away", "contended"}


def is_contended(error: BaseException) -> bool:
    """Return whether another session held a lock: another try may succeed over the same connection."""
    return isinstance(error, psycopg.Error) and meaning(error) == "contended"


def may_be_refreshed(error: BaseException) -> bool:
    """Return whether another try of a refresh may succeed: not after a timeout, which would take as long again."""
    cause = cause_of(error)
    return cause is not None and is_transient(cause) and not isinstance(cause, psycopg.errors.QueryCanceled)


def may_be_of_value(error: psycopg.Error) -> bool:
    """Return whether a type that only the server knows may have refused a text with this error."""
    return re.match(sqlstates.of_value(), code_of(error) or "") is not None


def cause_of(error: BaseException | None) -> psycopg.Error | None:
    """Return the error of the database that an error is, or that caused it."""
    while error is not None and not isinstance(error, psycopg.Error):
        error = error.__cause__
    return error


def fault(error: psycopg.Error) -> Fault:
    """Return the table, the column and the condition of an error; the server's message may hold values of the data."""
    diag, code = error.diag, code_of(error) or "XX000"
    names = [name for name in (diag.constraint_name, diag.datatype_name) if name]
    of = f" by {', '.join(names)}" if names else ""
    reason = f"the server refused it{of}: {condition(code)}"
    if is_without_partition(code, diag.constraint_name):
        reason = f"no partition of {diag.schema_name}.{diag.table_name} holds it"
    return Fault(
        sqlstate=code,
        reason=reason,
        table=f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None,
        column=diag.column_name,
    )


def is_without_partition(sqlstate: str | None, constraint: str | None) -> bool:
    """Return whether a row is refused because no partition holds it: a check of the table itself has a name."""
    return sqlstate == psycopg.errors.CheckViolation.sqlstate and (not constraint or constraint == PARTITION_CHECK)


def explained(
    error: psycopg.Error, database: Database, connection: psycopg.Connection, tables: Sequence[Table]
) -> EtlError:
    """Return the error that ends the load of a dataset, with the table that a person must change, if one is at fault.

    `connection` is outside a transaction.
    """
    code = code_of(error)
    if code is None or meaning(error) != "fix":
        return as_etl_error(error, database)
    cause = find_cause(connection, [table.quoted for table in tables], code)
    return _to_fix(error, code, cause, " and ".join(table.name for table in tables))


def _to_fix(error: psycopg.Error, code: str, cause: Obstacle | None, tables: str) -> UsageError:
    then = "then run the same command: loaded batches are not loaded again"
    what = f"the server refused it: {condition(code)}, SQLSTATE {code}"
    if cause is not None:
        return UsageError(f"{cause.table} cannot be loaded: {cause.found}; {what}", hint=f"{cause.remedy}; {then}")
    diag = error.diag
    named = f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None
    column = f", column {diag.column_name}" if diag.column_name else ""
    return UsageError(
        f"{named or tables} cannot be loaded{column}: {what}",
        hint=f"look at the triggers, policies, rights and publications of {named or tables}; the server's log has the"
        f" statement; {then}",
    )


def as_etl_error(error: psycopg.Error, database: Database) -> EtlError:
    """Return the error that ends an attempt when the database refused to continue; it holds no value of the data."""
    code = code_of(error)
    what = meaning(error)
    if what == "unexpected":
        return InternalError(f"unexpected {type(error).__name__} of the database driver")
    if code is not None and what in {"fix", "data"}:
        named = f" for {error.diag.schema_name}.{error.diag.table_name}" if error.diag.table_name else ""
        return UsageError(
            f"the database {database.name} refuses this{named}: {condition(code)}, SQLSTATE {code}",
            hint="etl db check looks for the cause; the server's log has the statement",
        )
    reason = f"{type(error).__name__}, SQLSTATE {code}" if code else "the connection is lost"
    return DatabaseError(
        f"the database {database.name} cannot continue: {reason}", hint=_WRITABLE if code == "25006" else _CONTINUE
    )


def not_published(error: psycopg.Error, runs: str, record: int | None = None) -> UsageError:
    """Return the error that rows of atomic runs are refused when they become visible together.

    `record` is the number in the source of the first record that is refused, where it was found.
    """
    found = fault(error)
    of = f", in {found.table}{f', column {found.column}' if found.column else ''}" if found.table else ""
    at = f"record {record:,}: " if record is not None else ""
    return UsageError(
        f"the rows of run {runs} cannot become visible together: {at}{found.reason}, SQLSTATE {found.sqlstate}{of}",
        hint="--force without --atomic or replace rejects the records at fault one by one",
    )
