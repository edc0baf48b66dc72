"""`etl db psql` on a connection with TLS."""

import datetime as dt
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.site import Site

_ASKED = 8  # bytes of the request for TLS, which comes first


def _certificate(folder: Path) -> Path:
    """Write a key and a certificate of localhost in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    text = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(text)
    )
    return path


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            socket.socket.shutdown(each, socket.SHUT_RDWR)


@pytest.fixture
def tls(site: Site, tmp_path: Path) -> Iterator[str]:
    """Put TLS before the server of the test, which has none; give the address, with a password."""
    found = conninfo_to_dict(site.conninfo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=connect, args=(client,), daemon=True).start()

    def connect(client: socket.socket) -> None:
        with client, suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            client.recv(_ASKED)
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as wrapped:
                server.connect(f"{found['host']}/.s.PGSQL.{found['port']}")
                threading.Thread(target=_copy, args=(server, wrapped), daemon=True).start()
                _copy(wrapped, server)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield make_conninfo(
            host="127.0.0.1",
            port=listening.getsockname()[1],
            user=found["user"],
            dbname=found["dbname"],
            sslmode="require",
            password="SECRET",  # noqa: S106 - the server asks for none
        )
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.skipif(shutil.which("psql") is None, reason="this machine has no psql of its own")
def test_psql_of_the_system_is_used_for_tls(site: Site, tls: str) -> None:
    """The installed psql has no TLS; that of the system has."""
    done = site.run("db", "psql", "--", "-Atc", "select 6 * 7", conninfo=tls)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.mark.parametrize("by_variable", [False, True])
def test_without_a_psql_that_has_tls_the_reason_is_reported(site: Site, tls: str, by_variable: bool) -> None:
    """An address that insists on TLS is wrong usage when no psql has it; the message has no password."""
    plain = make_conninfo("", **{name: value for name, value in conninfo_to_dict(tls).items() if name != "sslmode"})
    env = {"PATH": "/nowhere"} | ({"PGSSLMODE": "require"} if by_variable else {})
    done = site.run("db", "psql", "--", "-Atc", "select 1", conninfo=plain if by_variable else tls, env=env)
    assert done.returncode == 2
    assert "error: the psql of this installation has no TLS, which " in done.stderr
    assert "host=127.0.0.1" in done.stderr
    assert "SECRET" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [["select 6 * 7", "--", "-At"], ["--", "-At", "select 6 * 7"], ["--", "-At", "-v", "a=b", "select 6 * 7"]],
)
def test_a_statement_needs_no_option(site: Site, words: list[str]) -> None:
    """A statement in quotes is run; psql itself would take it for the name of a user."""
    done = site.run("db", "psql", *words)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.mark.parametrize("words", [["select", "1"], ["logistics"], ["--", "-At", "logistics"]])
def test_other_words_are_wrong_usage(site: Site, words: list[str]) -> None:
    """A word that is neither an option nor a statement is exit code 2."""
    done = site.run("db", "psql", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected one statement in quotes, or options of psql, got '" in done.stderr
