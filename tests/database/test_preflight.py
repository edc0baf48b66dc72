"""The findings of `etl db check`, and the pooler that loads refuse."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.database.connecting import Database, connect
from etl.errors import UsageError
from etl.preflight import Finding, inspect
from tests.support.commands import RunEtl
from tests.support.faults import Connection


def _inspected(address: str, tmp_path: Path, sessions: int = 6) -> dict[str, Finding]:
    found = inspect(Database(conninfo=address), tmp_path, tmp_path, sessions)
    return {each.what: each for each in found}


def test_findings_have_remedies(connection: Connection, database_url: str, tmp_path: Path) -> None:
    """Risky, slow or interrupting settings are warnings, a setting that ends loads fails; each has a remedy."""
    found = _inspected(database_url, tmp_path)
    # The server of the tests waits for no disk, and has little memory for its log.
    expected = {"fsync", "full_page_writes", "max_wal_size", "disk"}
    assert {what for what, each in found.items() if each.state != "ok"} <= expected
    assert found["fsync"].state == "warn"
    database = sql.Identifier(connection.info.dbname)
    for change in (
        "alter database {} set synchronous_commit = off",
        "revoke temporary on database {} from public",
        "create role checker login connection limit 3",
        "grant etl_loader to checker",
        "revoke create on schema etl_staging from etl_loader",
        "drop table logistics.vehicles",
        "alter table logistics.shipments drop column note",
        "alter table logistics.vehicle_logs drop constraint vehicle_logs_pkey",
    ):
        connection.execute(sql.SQL(change).format(database))
    try:
        address = make_conninfo(database_url, user="checker")
        found = _inspected(address, tmp_path)
        assert found["temporary tables"].state == "fail"
        assert found["temporary tables"].remedy.startswith("grant temporary on database")
        assert "migrations" not in found
        connection.execute(sql.SQL("grant temporary on database {} to checker").format(database))
        found = _inspected(address, tmp_path)
        for what, state, remedy in (
            ("synchronous_commit", "warn", "on: "),
            ("connections", "warn", "max_connections"),
            ("ledger", "fail", "grant etl_loader to checker"),
            ("dataset vehicles", "fail", "etl dataset create vehicles"),
            ("dataset shipments", "fail", "etl dataset create shipments adds it"),
            ("dataset vehicle_logs", "fail", "add primary key"),
        ):
            assert (what, found[what].state) == (what, state)
            assert remedy in found[what].remedy
        assert found["dataset tracking_events"].state == "ok"
    finally:
        connection.execute("grant create on schema etl_staging to etl_loader; drop owned by checker; drop role checker")


def test_the_check_ends_with_its_code(run_etl: RunEtl, connection: Connection) -> None:
    """--json prints one finding a line; warnings alone are exit 0, a failure is 2, an unreachable server is 4."""
    done = run_etl("db", "check", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, {frozenset(each) for each in found}) == (
        0,
        {frozenset(("what", "state", "found", "remedy"))},
    )
    assert "warn" in {each["state"] for each in found}
    connection.execute("alter table logistics.vehicles rename to cars")
    done = run_etl("db", "check")
    assert done.returncode == 2
    assert "etl dataset create vehicles" in done.stdout
    assert run_etl("--database", "postgresql://nobody@127.0.0.1:1/nowhere", "db", "check").returncode == 4


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = end.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _message(end: socket.socket) -> tuple[bytes, bytes]:
    """Read one message of the protocol: its kind, and all of its bytes."""
    head = _exactly(end, 5)
    return head[:1], head + _exactly(end, struct.unpack("!i", head[1:])[0] - 4)


def _answer(end: socket.socket) -> list[tuple[bytes, bytes]]:
    """Read until the server is ready for the next query."""
    messages = [_message(end)]
    while messages[-1][0] != b"Z":
        messages.append(_message(end))
    return messages


class Pooler:
    """A pooler with one session of the server, which it lends to a client for each transaction, or for good."""

    def __init__(self, server: str, *, by_transaction: bool) -> None:
        self._server = server
        self._by_transaction = by_transaction
        self._is_taken = threading.Lock()
        self._shared: socket.socket | None = None
        self._greeting = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        self._listener.close()
        if self._shared:
            self._shared.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        own: socket.socket | None = None
        try:
            with client:
                startup = self._startup(client)
                with self._is_taken:
                    session = self._shared if self._by_transaction else None
                    if session is None:
                        session = self._login(startup)
                        own, self._shared = (None, session) if self._by_transaction else (session, None)
                # As at PgBouncer, the reported process id is none of the server.
                client.sendall(
                    self._greeting + b"K" + struct.pack("!iii", 12, 1, 1) + b"Z" + struct.pack("!i", 5) + b"I"
                )
                while True:
                    first = _message(client)
                    if not self._by_transaction:
                        self._transaction(client, session, first)
                        continue
                    with self._is_taken:
                        self._transaction(client, session, first)
        except (ConnectionError, OSError):
            pass
        finally:
            if own:
                own.close()

    def _startup(self, client: socket.socket) -> bytes:
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!ii", head)
            startup = head + _exactly(client, length - 8)
            if code == 196608:
                return startup
            client.sendall(b"N")  # no encryption

    def _login(self, startup: bytes) -> socket.socket:
        session = socket.socket(socket.AF_UNIX)
        session.connect(self._server)
        session.sendall(startup)
        self._greeting = b"".join(data for kind, data in _answer(session) if kind in {b"R", b"S"})
        return session

    def _transaction(self, client: socket.socket, session: socket.socket, message: tuple[bytes, bytes]) -> None:
        while True:
            kind, data = message
            if kind == b"X":
                raise ConnectionError
            session.sendall(data)
            if kind in {b"Q", b"S"}:
                answer = _answer(session)
                client.sendall(b"".join(data for _, data in answer))
                if answer[-1][1].endswith(b"I"):
                    return
            message = _message(client)


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.slow), False], ids=["by transaction", "by session"])
def pooled(request: pytest.FixtureRequest, connection: Connection) -> Iterator[tuple[bool, str]]:
    """Give the address of the test's database behind a pooler, and whether it shares sessions."""
    info = connection.info
    pooler = Pooler(f"{info.host}/.s.PGSQL.{info.port}", by_transaction=request.param)
    yield request.param, make_conninfo("", host="127.0.0.1", port=pooler.port, user=info.user, dbname=info.dbname)
    pooler.close()


def test_a_pooler_that_shares_sessions_is_refused(
    pooled: tuple[bool, str], run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Behind a pooler by transaction a check fails, and each command is exit 2 before it writes or locks anything."""
    shares, address = pooled
    database = Database(conninfo=address)
    found = _inspected(address, tmp_path)
    assert found["connection"].state == ("fail" if shares else "ok")
    if not shares:
        with connect(database):
            assert database.known_pooling == ["session"]
        return
    with pytest.raises(UsageError, match="gives each transaction another session"):
        connect(database)
    (tmp_path / "fleet.json").write_text('[{"vehicle_id": "V1"}]')
    commands = [
        "load vehicles fleet.json --no-precalculate --workers 1",
        "failed replay --all",
        "precalculate",
        "precalculate --verify",
        "listen",
        "listen --check",
        "db migrate",
        "dataset create vehicles",
        "runs list",
        "report",
    ]
    for command in commands:
        done = run_etl("--database", address, *command.split())
        assert (command, done.returncode) == (command, 2)
        assert "pool_mode = session" in done.stderr
    assert connection.execute("select count(*) from etl.runs").fetchone() == (0,)
    assert connection.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)
