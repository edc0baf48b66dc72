"""When the disk of the failed store or of the database is full, the exit code is 4 and no refused record is lost."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cases import Case
from tests.support.checkout import MEASURED
from tests.support.commands import Ended
from tests.support.site import Site
from tests.support.states import assert_sound

RECORDS = 1_200


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """Put the failed store of the site on a file system of 64 KiB."""
    site.store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "etl-test", str(site.store)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip() if done else 'not root'}")
    yield site.store
    subprocess.run(["umount", str(site.store)], check=True)


def _assert_stopped(site: Site, ended: Ended) -> None:
    """Assert that the load ends with exit code 4 and its reason; the ledger has only the failures that were stored."""
    assert ended.returncode == 4
    assert "the failed store failed cannot take a file" in ended.stderr
    assert "hint: make room and run the same command" in ended.stderr
    assert ended.summary["status"] == "incomplete"
    assert 0 < site.count_batches() < RECORDS // 100
    assert ended.summary["records"]["withheld"] > 0
    assert_sound(site)


def _complete(site: Site, case: Case, batch_rows: str = "100") -> None:
    ended = site.run(*case.command, "--batch-rows", batch_rows)
    assert ended.returncode == 1
    assert ended.summary["records"]["skipped"] > 0
    case.assert_done(site)


@pytest.mark.parametrize("batch_rows", [pytest.param("100", marks=pytest.mark.slow), "37"])
def test_a_full_disk(site: Site, appended: Case, small_disk: Path, batch_rows: str) -> None:
    """A batch whose refused records cannot be stored is not committed; it is loaded when there is room."""
    ended = site.run(*appended.command, "--batch-rows", "100")
    _assert_stopped(site, ended)
    assert "no space left" in ended.stderr
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    _complete(site, appended, batch_rows)


def test_files_that_may_not_grow(site: Site, appended: Case) -> None:
    """The same is true of a limit for the size of a file, which only some batches exceed."""
    # Coverage is not measured: its file could not grow either.
    running = site.start(*appended.command, "--batch-rows", "100", env=dict.fromkeys(MEASURED))
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (4_000, 4_000))
    ended = running.ended()
    _assert_stopped(site, ended)
    assert "file too large" in ended.stderr
    _complete(site, appended)


@pytest.mark.parametrize("becomes", ["nothing", pytest.param("a file", marks=pytest.mark.slow)])
def test_a_failed_store_that_goes_away(site: Site, appended: Case, becomes: str) -> None:
    """When the folder of the store disappears during a load, it is not created again: it may have been unmounted."""
    away = site.folder / "away"
    with site.gate("logistics.deliveries", "in COPY", 300_000) as gate:
        running = site.start(*appended.command, "--batch-rows", "100")
        gate.reached()
        site.store.rename(away)
        if becomes == "a file":
            site.store.write_text("")
        gate.open()
        ended = running.ended()
    if becomes == "a file":
        site.store.unlink()
    assert not site.store.exists()
    away.rename(site.store)
    _assert_stopped(site, ended)
    _complete(site, appended)


@pytest.mark.parametrize("times", [2, 100])
def test_a_database_without_room(site: Site, appended: Case, times: int) -> None:
    """A full disk of the server is retried; if it stays full, the exit code is 4, and the next load continues."""
    site.ask("create sequence tries")
    site.ask(
        """
        create function refuse() returns trigger language plpgsql as $$
        begin
            if nextval('tries') <= tg_argv[0]::integer then
                raise exception using errcode = '53100', message = 'no space left on device';
            end if;
            return new;
        end;
        $$
        """
    )
    site.ask(
        "create trigger refuse before insert on logistics.deliveries for each row"
        " when (new.etl_batch > 300000 and new.etl_place = 50) execute function refuse(" + str(times) + ")"
    )
    ended = site.run(*appended.command, "--batch-rows", "100", "--retry-attempts", "4")
    assert_sound(site)
    if times < 4:
        assert ended.returncode == 1
        assert ended.summary["batches"]["retried"] == times
    else:
        assert ended.returncode == 4
        assert "DiskFull, SQLSTATE 53100" in ended.stderr
        assert (ended.summary["status"], ended.summary["batches"]["retried"]) == ("incomplete", 3)
        assert 0 < site.count_batches() < RECORDS // 100
        site.ask("drop trigger refuse on logistics.deliveries")
        _complete(site, appended)
    appended.assert_done(site)
