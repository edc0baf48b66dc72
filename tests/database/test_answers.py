"""A refused connection is recognised by the code of the server's answer, in any language."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.commands import RunEtl


@contextmanager
def _server_that_answers(code: str, text: str) -> Iterator[str]:
    """Run a server that answers each start of a session with an error; yield its address."""
    fields = b"".join(kind + value.encode() + b"\0" for kind, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code)))
    fields += b"M" + text.encode() + b"\0\0"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    size, kind = struct.unpack("!ii", connection.recv(8))
                    if kind in {80877103, 80877104}:  # a request for TLS or GSS
                        connection.sendall(b"N")
                        size, kind = struct.unpack("!ii", connection.recv(8))
                    connection.recv(size - 8)
                    connection.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/facts"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("code", "text", "exit_code", "hint"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", 2, "PGPASSWORD"),
        ("28000", "Rolle »me« darf sich nicht anmelden", 2, "PGPASSWORD"),
        ("3D000", "Datenbank »facts« existiert nicht", 2, "create the database"),
        ("42501", "keine Berechtigung für Datenbank »facts«", 2, "allowed to connect"),
        ("42704", "unbekannter Konfigurationsparameter »nosuch«", 2, "PGOPTIONS"),
        ("22023", "ungültiger Wert für Parameter »geqo«", 2, "PGOPTIONS"),
        ("08P01", "unsupported startup parameter", 2, "PGOPTIONS"),
        ("53300", "tut mir leid, schon zu viele Verbindungen", 4, "start the server"),
        ("57P03", "das Datenbanksystem startet", 4, "start the server"),
        ("55000", "Datenbank »facts« akzeptiert gegenwärtig keine Verbindungen", 4, "start the server"),
        # Only the text looks like a refusal.
        ("57P03", "password authentication failed: certificate does not exist", 4, "start the server"),
    ],
)
def test_the_code_of_an_answer_decides(run_etl: RunEtl, code: str, text: str, exit_code: int, hint: str) -> None:
    """The SQLSTATE of the answer says whether a person must change the address, in whatever language it is."""
    with _server_that_answers(code, text) as address:
        done = run_etl("db", "status", conninfo=address)
    assert done.returncode == exit_code
    assert text in done.stderr
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("address", "exit_code"),
    [
        ("postgresql://me@127.0.0.1:1/facts", 4),
        ("postgresql://me@nosuch.invalid/facts", 4),
        ("postgresql://me@127.0.0.1:1/facts?sslmode=nonsense", 2),
        ("postgresql://me@127.0.0.1:1/facts?connect_timeout=soon", 2),
        ("postgresql://me@127.0.0.1:1/facts?keepalives=always", 2),
        ("postgresql://me@127.0.0.1:99999/facts", 2),
        ("service=nosuch", 2),
    ],
)
def test_a_wrong_parameter_and_a_missing_server_differ(run_etl: RunEtl, address: str, exit_code: int) -> None:
    """A wrong parameter is 2; a server that is not there is 4."""
    assert run_etl("db", "status", conninfo=address).returncode == exit_code


def test_wrong_options_are_2(run_etl: RunEtl) -> None:
    """PGOPTIONS that the server refuses are exit code 2, however they are wrong."""
    for options in ("-c nosuch=1", "-c geqo=77", "--x"):
        done = run_etl("db", "status", env={"PGOPTIONS": options})
        assert (options, done.returncode) == (options, 2)
        assert "PGOPTIONS" in done.stderr
