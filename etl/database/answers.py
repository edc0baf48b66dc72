"""Why a connection could not be opened: by the SQLSTATE of the server's answer, else by what libpq did.

No text of a message is read: the server answers in its own language. libpq keeps the SQLSTATE of the answer to itself,
so the connection is tried once more while libpq writes down the messages of the protocol (PQtrace, libpq 18 and later;
with an older libpq only a password that is missing or refused, and a wrong parameter, are recognised).
"""

import re
import select
import tempfile
import time

import psycopg
from psycopg import pq

from etl.database.sqlstates import code_of, codes_of
from etl.quick_dataclasses import dataclass

_SECONDS = 10.0

# One line for each message, `B` for those of the server; the fields of an error are its severity twice, then its code.
_ERROR = re.compile(rb'^B\t[^\t\n]*\tErrorResponse\t[^\n]*? C "([0-9A-Z]{5})"', re.MULTILINE)
_NUMBERS = (
    *(b"connect_timeout", b"tcp_user_timeout", b"keepalives"),
    *(b"keepalives_idle", b"keepalives_interval", b"keepalives_count"),
)

_ANY_ANSWER = re.compile(rb"^B\t", re.MULTILINE)
_NO_ENCRYPTION = re.compile(rb"^B\t[^\t\n]*\tSSLResponse\t ?N\s*\Z", re.MULTILINE)
_BROKEN_ENCRYPTION = re.compile(rb"^B\t[^\t\n]*\tSSLResponse\t ?S\s*\Z", re.MULTILINE)

_CREDENTIALS = "give the password by ~/.pgpass, PGPASSWORD or a service file, never on the command line"
_TLS = "sslrootcert names the authority of the server's certificate; see docs/security.md"
_OPTIONS = "check the parameters of the address and the variables of libpq, such as PGOPTIONS and PGSERVICE"
_REMEDIES = {
    "28": _CREDENTIALS,
    "3D": "create the database, or name another by --database or ETL_DATABASE_URL",
    "22": _OPTIONS,
    "0A": _OPTIONS,
    "08": _OPTIONS,
    "42": f"{_OPTIONS}; is the user allowed to connect?",
    "55": _OPTIONS,
}
_START = "start the server, or name another by --database or ETL_DATABASE_URL"


_NO_HOST = re.compile("could not translate host name|failed to resolve host|not known")
"""The texts of libpq and psycopg about a host whose name has no address; they have no code for it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a person must change the address or the server (exit code 2), and what to do; else try again later.

    `is_brief`: the server may answer a moment later.
    """

    is_refusal: bool
    remedy: str
    is_brief: bool = False


def answer_to(conninfo: str, error: psycopg.OperationalError) -> Answer:
    """Return why this connection could not be opened; tries it once more."""
    if _NO_HOST.search(str(error)):
        return Answer(is_refusal=False, remedy=_START)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return Answer(is_refusal=False, remedy=_START, is_brief=True)
    if error.pgconn is not None and error.pgconn.needs_password:
        return Answer(is_refusal=True, remedy=_CREDENTIALS)
    sqlstate = code_of(error)
    if sqlstate is not None:
        return _of_code(sqlstate)
    return _traced(conninfo, used_password=error.pgconn is not None and error.pgconn.used_password)


def wrong_parameter() -> Answer:
    """Return the answer for an address that the driver itself refuses."""
    return Answer(is_refusal=True, remedy=_OPTIONS)


def _of_code(sqlstate: str) -> Answer:
    is_refusal = codes_of(sqlstate).connecting == "fix"
    remedy = _REMEDIES.get(sqlstate[:2], "check user, database and address") if is_refusal else _START
    return Answer(is_refusal=is_refusal, remedy=remedy, is_brief=not is_refusal)


def _traced(conninfo: str, *, used_password: bool) -> Answer:
    connection = pq.PGconn.connect_start(conninfo.encode())
    try:
        if connection.status == pq.ConnStatus.BAD:  # before a server was reached
            is_wrong = pq.PGconn.ping(conninfo.encode()) == pq.Ping.NO_ATTEMPT or _has_wrong_number(connection)
            return Answer(is_refusal=is_wrong, remedy=_OPTIONS if is_wrong else _START, is_brief=not is_wrong)
        messages = _messages(connection)
        verifies = _verifies(connection)
    finally:
        connection.finish()
    errors = _ERROR.findall(messages)
    if errors:
        return _of_code(errors[-1].decode())
    if _NO_ENCRYPTION.search(messages) or (_BROKEN_ENCRYPTION.search(messages) and verifies):
        return Answer(is_refusal=True, remedy=_TLS)
    if used_password and not _ANY_ANSWER.search(messages):  # an older libpq, which writes no answer down
        return Answer(is_refusal=True, remedy=_CREDENTIALS)
    return Answer(is_refusal=False, remedy=_START, is_brief=True)


def _messages(connection: pq.abc.PGconn) -> bytes:
    """Connect, and return what libpq writes about the messages of the protocol."""
    deadline = time.monotonic() + _SECONDS
    with tempfile.TemporaryFile() as file:
        try:
            connection.trace(file.fileno())
        except psycopg.NotSupportedError:
            return b""
        connection.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)
        while (status := connection.connect_poll()) not in {pq.PollingStatus.OK, pq.PollingStatus.FAILED}:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            poll = select.poll()
            poll.register(connection.socket, select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT)
            poll.poll(left * 1000)
        connection.untrace()
        file.seek(0)
        return file.read()


def _has_wrong_number(connection: pq.abc.PGconn) -> bool:
    """Return whether a port or another number is none; libpq finds that only when it connects."""
    given = {option.keyword: option.val or b"" for option in connection.info}
    ports = given.get(b"port", b"").split(b",")
    numbers = [given.get(name, b"").removeprefix(b"-") for name in _NUMBERS]
    return any(port and not (port.strip().isdigit() and 0 < int(port) < 1 << 16) for port in ports) or any(
        number and not number.strip().isdigit() for number in numbers
    )


def _verifies(connection: pq.abc.PGconn) -> bool:
    """Return whether the client was to verify the server's certificate."""
    return any(option.keyword == b"sslmode" and (option.val or b"").startswith(b"verify") for option in connection.info)
