"""A hostile file, definition or network is refused."""

import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

import etl
from etl.database.connecting import Database, connect
from etl.datasets import read
from etl.errors import UsageError
from etl.ingestion.failed_store.store import FailedStore
from tests.support.checkout import MEASURED, ROOT
from tests.support.faults import Connection
from tests.support.site import Site

ODD = """
name = "odd"
mode = "merge"
key = ["id"]
[[table]]
name = "logistics.odd"
comment = "it's; drop table logistics.vehicles; --"
[table.columns]
id = { type = "text", required = true, one_of = ["a", "');--"] }
n = { type = "integer", min = 0, comment = "%s {x} $$ '; drop table logistics.vehicles; --" }
"""


def test_odd_names_inject_nothing(site: Site, tmp_path: Path) -> None:
    """Quotes and semicolons in texts of a definition are data; in names of tables and columns they are exit code 2."""
    site.define(ODD)
    for name, odd in (
        ('"logistics.odd"', "'logistics.odd\"; drop table x; --'"),
        ("\nn =", "\n'n\"; drop table x; --' ="),
    ):
        (tmp_path / "worse.toml").write_text(ODD.replace('"odd"', '"worse"').replace(name, odd))
        with pytest.raises(UsageError, match="expected a name"):
            read(tmp_path / "worse.toml")
    source = tmp_path / "odd.json"
    source.write_text(json.dumps([{"id": "');--", "n": 1}, {"id": "a", "n": -1}, {"id": "c", "n": 2}]))
    loaded = etl.load(
        "odd",
        source,
        database=site.conninfo,
        config_dir=tmp_path / "config",
        failed_dir=site.store,
        max_rejected=2,
        precalculate=False,
    )
    assert (loaded.sources[0].records.loaded, loaded.sources[0].records.rejected) == (1, 2)
    assert site.ask("select * from logistics.odd")[0][:2] == ("');--", 1)
    assert site.value("select to_regclass('logistics.vehicles')") == "logistics.vehicles"


def test_names_do_not_lead_out_of_the_failed_store(tmp_path: Path) -> None:
    """A dataset, run or failure whose name is a path is refused before a file is touched."""
    with FailedStore(tmp_path / "failed") as store:
        for names in (
            ("..", "run", "id"),
            ("d", "../..", "id"),
            ("d", "run", "../../id"),
            ("/etc", "run", "id"),
            ("d", "", "i"),
        ):
            with pytest.raises(UsageError, match="is not the name of"):
                store.path(*names)
            with pytest.raises(UsageError, match="is not the name of"):
                store.remove(*names)
    with pytest.raises(UsageError):
        etl.load("../../etc/passwd", "a.json", database="postgresql://nobody@127.0.0.1:1/nowhere")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def encrypted(connection: Connection, tmp_path: Path) -> Iterator[tuple[int, Path, Path]]:
    """Give the port at which the test's server accepts TLS, its certificate, and that of another authority."""
    certificate, key = _certificate(tmp_path, "ours")
    other, _ = _certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    server = f"{connection.info.host}/.s.PGSQL.{connection.info.port}"

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(client,), daemon=True).start()

    def _serve(client: socket.socket) -> None:
        try:
            client.recv(8)  # the request for TLS
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as inner, socket.socket(socket.AF_UNIX) as session:
                session.connect(server)
                threading.Thread(target=_pass_on, args=(session, inner), daemon=True).start()
                _pass_on(inner, session)
        except OSError:
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], certificate, other
    listener.close()


def test_tls_is_verified(encrypted: tuple[int, Path, Path], connection: Connection, database_url: str) -> None:
    """verify-full accepts a server whose certificate fits; another authority, or no TLS, is exit code 2."""
    port, certificate, other = encrypted
    info = connection.info
    address = make_conninfo(
        "",
        host="127.0.0.1",
        port=port,
        user=info.user,
        dbname=info.dbname,
        sslmode="verify-full",
        sslrootcert=str(certificate),
    )
    with connect(Database(conninfo=address)) as reached:
        assert reached.pgconn.ssl_in_use
    for wrong, sentence in (
        (make_conninfo(address, sslrootcert=str(other)), "certificate verify failed"),
        (make_conninfo(address, host="localhost"), "certificate"),
        (make_conninfo(address, sslrootcert="/nowhere.pem"), "does not exist"),
    ):
        with pytest.raises(UsageError, match=sentence) as caught:
            connect(Database(conninfo=wrong))
        assert "sslrootcert" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["records", "blanks"])
def test_a_compressed_file_that_explodes_takes_no_memory(
    connection: Connection, database_url: str, tmp_path: Path, inside: str
) -> None:
    """A gigabyte compressed to a megabyte is read in constant memory; endless white space is exit code 3."""
    path = tmp_path / "bomb.json.gz"
    unit = b'{"vehicle_id": "V1"}, ' * 50_000 if inside == "records" else b" " * (1 << 20)
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b"[")
        for _ in range(1_000):
            file.write(unit)
        file.write(b'{"vehicle_id": "V1"}]')
    assert path.stat().st_size < 8 << 20
    # The peak memory of a child, as the system reports it, includes the memory of this process at the fork.
    program = (
        "import sys; from etl.cli import run; code = run(sys.argv[1:]);"
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr);"
        "sys.exit(code)"
    )
    words = ["load", "vehicles", str(path), "--dry-run", *(["--limit", "1000000"] if inside == "records" else [])]
    done = subprocess.run(
        [sys.executable, "-c", program, "--database", database_url, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"} | MEASURED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if inside == "records" else 3), done.stderr
    assert int(done.stderr.split()[-2]) < 400 * 1024  # KiB
