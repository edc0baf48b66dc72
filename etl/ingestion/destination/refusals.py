"""What an error of the database means, by its SQLSTATE.

No other module of the ingestion reads a SQLSTATE.
"""

from typing import Literal

import psycopg

from etl.database.connecting import Database
from etl.errors import DatabaseError, EtlError, InternalError
from etl.ingestion.values import Fault

Meaning = Literal["away", "contended", "data", "denied", "unexpected"]
"""away: the server or the connection is gone or refuses work; contended: another session holds a lock; data: the rows
are refused; denied: a table, a column or a privilege is missing.
"""

# SQLSTATEs and not classes of exceptions: OperationalError also covers a full disk and a wrong password.
_AWAY = ("08", "53", "57P")
_CONTENDED = ("40001", "40P01", "55P03", "57014")
DATA = ("22", "23", "54", "P0001")
"""The first characters of the SQLSTATEs that refuse rows; the isolation block catches these errors."""
_DENIED = ("28", "3D", "42")


def meaning(error: psycopg.Error) -> Meaning:
    """Return what an error means (PostgreSQL manual, appendix A; without a SQLSTATE the connection is lost)."""
    code = error.sqlstate
    if code is None:
        return "away" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "unexpected"
    if code.startswith(_AWAY):
        return "away"
    if code in _CONTENDED:
        return "contended"
    if code.startswith(DATA):
        return "data"
    return "denied" if code.startswith(_DENIED) else "unexpected"


def is_transient(error: BaseException) -> bool:
    """Return whether another try may succeed."""
    return isinstance(error, psycopg.Error) and meaning(error) in {"away", "contended"}


def is_contended(error: BaseException) -> bool:
    """Return whether another session held a lock: another try may succeed over the same connection."""
    return isinstance(error, psycopg.Error) and meaning(error) == "contended"


def fault(error: psycopg.Error) -> Fault:
    """Return the table, the column and the condition of an error; the server's message may hold values of the data."""
    diag = error.diag
    names = [name for name in (diag.constraint_name, diag.datatype_name) if name]
    of = f" by {', '.join(names)}" if names else ""
    return Fault(
        sqlstate=error.sqlstate or "XX000",
        reason=f"the server refused it{of}: {_in_words(type(error))}",
        table=f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None,
        column=diag.column_name,
    )


def condition(sqlstate: str) -> str:
    """Return PostgreSQL's name of a condition in words, as in `unique violation`, or the SQLSTATE of an unknown one."""
    try:
        return _in_words(psycopg.errors.lookup(sqlstate))
    except KeyError:
        return f"SQLSTATE {sqlstate}"


def _in_words(error: type[psycopg.Error]) -> str:
    """Return psycopg's name of a condition as words: UniqueViolation -> unique violation."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in error.__name__).strip()


def as_etl_error(error: psycopg.Error, database: Database) -> EtlError:
    """Return the error that ends an attempt when the database refused to continue; it holds no value of the data."""
    code = error.sqlstate
    if meaning(error) == "unexpected" and code is None:
        return InternalError(f"unexpected {type(error).__name__} of the database driver")
    reason = f"{type(error).__name__}, SQLSTATE {code}" if code else "the connection is lost"
    return DatabaseError(
        f"the database {database.name} cannot continue: {reason}",
        hint="run the same command to continue where the ledger stops",
    )
