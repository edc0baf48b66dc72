"""The meaning of every SQLSTATE, in one table (PostgreSQL manual, appendix A). Decides by codes and never by a text.

What follows from a meaning depends on the stage: `ENDS` lists it, and `docs/reference/sqlstates.md` is made from both.
"""

from collections.abc import Mapping
from typing import Literal

import psycopg

from etl.errors import ExitCode
from etl.quick_dataclasses import dataclass

Meaning = Literal["away", "contended", "data", "fix", "stop", "unexpected"]
"""away: the server or the connection is gone or refuses work; contended: another session holds a lock, or a timeout;
data: the rows are refused; fix: a table, a right or an object of the database must be changed by a person; stop: no
other try helps now, and nothing in the database has to be changed; unexpected: an error of the driver itself.
"""

Stage = Literal["connection", "batch", "isolation", "publication", "refresh"]


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The SQLSTATEs that begin with `prefix`, but for those of a longer prefix.

    `meaning` is that of a statement, `connecting` that of the answer to a new connection.
    """

    prefix: str
    name: str
    meaning: Meaning
    connecting: Meaning = "stop"


def _codes(prefix: str, name: str, meaning: Meaning, connecting: Meaning = "stop") -> Codes:
    return Codes(prefix=prefix, name=name, meaning=meaning, connecting=connecting)


TABLE: tuple[Codes, ...] = (
    _codes("00", "successful completion", "data"),
    _codes("01", "warning", "data"),
    _codes("02", "no data", "data"),
    _codes("03", "SQL statement not yet complete", "stop"),
    _codes("08", "connection exception", "away", "away"),
    _codes("08P01", "protocol violation, such as a setting that a pooler does not know", "away", "fix"),
    _codes("09", "triggered action exception", "data"),
    _codes("0A", "feature not supported", "fix", "fix"),
    _codes("0B", "invalid transaction initiation", "fix"),
    _codes("0F", "locator exception", "fix"),
    _codes("0L", "invalid grantor", "fix"),
    _codes("0P", "invalid role specification", "fix", "fix"),
    _codes("0Z", "diagnostics exception", "fix"),
    _codes("10", "XQuery error", "data"),
    _codes("20", "case not found", "data"),
    _codes("21", "cardinality violation", "data"),
    _codes("22", "data exception", "data", "fix"),
    _codes("23", "integrity constraint violation", "data"),
    _codes("24", "invalid cursor state", "fix"),
    _codes("25", "invalid transaction state", "stop"),
    _codes("25006", "read-only server or standby", "stop", "stop"),
    _codes("25P03", "idle in transaction for too long", "away", "away"),
    _codes("25P04", "transaction for too long", "away", "away"),
    _codes("26", "invalid SQL statement name", "stop"),
    _codes("27", "triggered data change violation", "data"),
    _codes("28", "invalid authorization specification", "fix", "fix"),
    _codes("2B", "dependent privilege descriptors still exist", "fix"),
    _codes("2D", "invalid transaction termination", "fix"),
    _codes("2F", "SQL routine exception", "data"),
    _codes("34", "invalid cursor name", "fix"),
    _codes("38", "external routine exception", "data"),
    _codes("39", "external routine invocation exception", "data"),
    _codes("3B", "savepoint exception", "stop"),
    _codes("3D", "invalid catalog name", "fix", "fix"),
    _codes("3F", "invalid schema name", "fix", "fix"),
    _codes("40", "transaction rollback", "contended", "away"),
    _codes("42", "syntax error or access rule violation", "fix", "fix"),
    _codes("44", "WITH CHECK OPTION violation", "data"),
    _codes("53", "insufficient resources", "away", "away"),
    _codes("54", "program limit exceeded", "data"),
    _codes("55", "object not in prerequisite state", "fix", "stop"),
    _codes("55006", "object in use", "contended", "away"),
    _codes("55P02", "setting that cannot be changed now", "fix", "fix"),
    _codes("55P03", "lock not available", "contended", "away"),
    _codes("57", "operator intervention", "contended", "away"),
    _codes("57P", "shutdown, crash, start or timeout of the server", "away", "away"),
    _codes("58", "system error", "stop"),
    _codes("58P01", "undefined file", "fix", "fix"),
    _codes("72", "snapshot failure", "contended"),
    _codes("F0", "configuration file error", "fix", "fix"),
    _codes("HV", "error of a foreign data wrapper", "fix"),
    _codes("HV00N", "foreign server not reached", "away"),
    _codes("P0", "error of PL/pgSQL", "data"),
    _codes("XX", "internal error of the server", "stop"),
    _codes("XX001", "data corrupted", "fix", "fix"),
    _codes("XX002", "index corrupted", "fix", "fix"),
)

# A class that PostgreSQL does not define is that of a trigger (`raise ... using errcode`) or of an extension.
UNDEFINED = Codes(prefix="", name="a class that PostgreSQL does not define", meaning="data", connecting="stop")

_BY_PREFIX = {codes.prefix: codes for codes in TABLE}

ENDS: Mapping[Stage, Mapping[Meaning, str]] = {
    "connection": {
        "away": "4",
        "contended": "4",
        "fix": "2",
        "stop": "4",
    },
    "batch": {
        "away": "tried again, then 4",
        "contended": "tried again, then a failed batch",
        "data": "isolation",
        "fix": "2",
        "stop": "4",
    },
    "isolation": {
        "away": "tried again, then 4",
        "contended": "tried again, then a failed batch",
        "data": "a rejected record",
        "fix": "2",
        "stop": "4",
    },
    "publication": {
        "away": "tried again, then 4",
        "contended": "tried again, then 4",
        "data": "2",
        "fix": "2",
        "stop": "4",
    },
    "refresh": {
        "away": "4 for this aggregate; a lost connection ends the refresh",
        "contended": "4 for this aggregate",
        "data": "2 for this aggregate; 4 where a load refreshes it",
        "fix": "2 for this aggregate; 4 where a load refreshes it",
        "stop": "4 for this aggregate",
    },
}
"""The consequence of a meaning at each stage: an exit code, or another action."""


def code_of(error: psycopg.Error) -> str | None:
    """Return the SQLSTATE of an error, also one that psycopg has no class for; None: the server did not send one."""
    return error.diag.sqlstate or error.sqlstate


def codes_of(sqlstate: str) -> Codes:
    """Return the entry of the table for a SQLSTATE: that of its longest prefix."""
    lengths = range(len(sqlstate), 1, -1)
    return next((_BY_PREFIX[sqlstate[:n]] for n in lengths if sqlstate[:n] in _BY_PREFIX), UNDEFINED)


def meaning(error: psycopg.Error) -> Meaning:
    """Return the meaning of an error of a statement; without a SQLSTATE the connection is lost."""
    code = code_of(error)
    if code is None:
        return "away" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "unexpected"
    return codes_of(code).meaning


def is_of_data(sqlstate: str) -> bool:
    """Return whether a statement with this SQLSTATE refuses its rows."""
    return codes_of(sqlstate).meaning == "data"


def not_of_data() -> str:
    """Return a regular expression for the SQLSTATEs that do not refuse rows, as the isolation block needs it.

    Longer prefixes are exceptions from the shorter one.
    """
    alternatives = []
    for codes in TABLE:
        below = [other for other in TABLE if other is not codes and other.prefix.startswith(codes.prefix)]
        if codes.meaning == "data":
            continue
        excepted = "|".join(other.prefix[len(codes.prefix) :] for other in below if other.meaning == "data")
        alternatives.append(f"{codes.prefix}{f'(?!{excepted})' if excepted else ''}")
    return f"^({'|'.join(alternatives)})"


def of_value() -> str:
    """Return a regular expression for the SQLSTATEs by which types refuse a text, though most such errors are others.

    ltree, tsquery and jsonpath report a syntax error, regclass an undefined table, PostGIS an internal error.
    """
    return "^(0A|42|XX000)"


def exit_code(sqlstate: str | None) -> ExitCode:
    """Return the exit code of a command that an error of a statement ends: 2 for a person, 4 for another time."""
    if sqlstate is not None and codes_of(sqlstate).meaning in {"fix", "data"}:
        return ExitCode.USAGE
    return ExitCode.DATABASE_AWAY


def condition(sqlstate: str) -> str:
    """Return PostgreSQL's name of a condition in words, as in `unique violation`, or the SQLSTATE of an unknown one."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return f"SQLSTATE {sqlstate}"
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
