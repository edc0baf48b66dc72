"""The disk of the log of the server (WAL) becomes full during a load: the server crashes until there is room again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from etl.embedded import Server
from tests.support.cases import clean_case
from tests.support.databases import Databases, databases_of
from tests.support.site import Site
from tests.support.states import assert_complete, assert_sound
from tests.support.waiting import until

pytestmark = pytest.mark.slow

RECORDS = 30_000
DISK_BYTES = 300 << 20
ROOM_BYTES = 1 << 20

MANNERS = {
    "append": ("deliveries",),
    "merge": ("shipments",),
    "append, atomic": ("deliveries", "--atomic"),
    "replace": ("shipments", "--mode", "replace"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """Give a server whose log is on a small disk of its own, and the folder of that disk."""
    server = Server(tmp_path / "server" / "postgres")
    server.start()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("alter system set max_wal_size = '10GB'")  # No checkpoint makes room.
        connection.execute("alter system set checkpoint_timeout = '1h'")
        row = connection.execute("select setting from pg_settings where name = 'data_directory'").fetchone()
    assert row
    log = Path(row[0]) / "pg_wal"
    server.stop()
    owner = log.stat()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700,uid={owner.st_uid},gid={owner.st_gid}"]
    place = log.with_name("wal_small")
    place.mkdir()
    done = subprocess.run([*mount, "etl-test", str(place)], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip()}")
    try:
        subprocess.run(["cp", "-a", f"{log}/.", str(place)], check=True)
        shutil.rmtree(log)
        log.symlink_to(place)
        server.start()
        try:
            yield server, place
        finally:
            (place / "filler").unlink(missing_ok=True)
            server.stop()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _fill(site: Site, place: Path) -> None:
    """Let the server write to the last file of its log, and leave no room on the disk for another one."""
    segments = sorted(path.name for path in place.iterdir() if len(path.name) == 24)
    while site.value("select pg_walfile_name(pg_current_wal_lsn())") < segments[-1]:
        site.ask("select pg_logical_emit_message(true, 'test', 'test')")
        site.ask("select pg_switch_wal()")
    free = os.statvfs(place)
    with (place / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - ROOM_BYTES))


def _answers(server: Server) -> bool:
    if not server.status().running:
        server.start()
    try:
        psycopg.connect(server.url()).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("manner", MANNERS)
def test_a_full_disk_of_the_log(disk: tuple[Server, Path], tmp_path: Path, manner: str) -> None:
    """The load ends with 4 and nothing is lost or doubled; with room again, the same command completes it."""
    server, place = disk
    databases: Databases = databases_of(server)
    dataset, *options = MANNERS[manner]
    case = clean_case(databases, tmp_path / "clean", dataset, RECORDS, *options)
    with databases.site(tmp_path / "load") as site:
        _fill(site, place)
        ended = site.run(*case.command, "--batch-rows", "200", "--retry-attempts", "3", own_process=True, timeout=300)
        (place / "filler").unlink()
        until(lambda: _answers(server), "the recovery of the server")
        assert ended.returncode == 4, ended.stderr
        assert "No space left on device" in (server.folder / "server.log").read_text()
        assert_sound(site)
        assert 0 < site.count_batches() < RECORDS // 200
        assert site.run(*case.command, own_process=True, timeout=300).returncode == 1
        case.assert_done(site)
        assert_complete(site, case.dataset, case.source, case.records)
