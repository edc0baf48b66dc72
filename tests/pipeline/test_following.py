"""`etl load --follow`: what is written to a file, a pipe or standard input is loaded as it comes, and once."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.commands import Running
from tests.support.definitions import SMALL_PARCELS
from tests.support.site import Site
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _parcels(site: Site) -> None:
    site.define(SMALL_PARCELS)


def _lines(first: int, last: int) -> bytes:
    return b"".join(b'{"parcel_id": "%d"}\n' % number for number in range(first, last + 1))


def _follow(site: Site, source: str | Path) -> Running:
    return site.start("load", "parcels", source, "--follow", "--json", "--no-precalculate", "--linger", "0.05")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _await_rows(site: Site, running: Running, rows: int) -> None:
    def has_rows() -> bool:
        assert running.is_running(), running.stderr()
        return int(site.value("select count(*) from logistics.parcels")) >= rows

    until(has_rows, f"{rows} rows")
    assert site.ask("select count(*), count(distinct parcel_id) from logistics.parcels") == [(rows, rows)]


def test_a_file_that_grows(site: Site) -> None:
    """Lines are loaded soon, over a rotation and a truncation; a signal ends with 0, and a killed load continues."""
    path = site.folder / "log.ndjson"
    running = _follow(site, path)
    path.write_bytes(_lines(1, 3))
    _await_rows(site, running, 3)
    _append(path, _lines(4, 5) + b'{"parc')
    _await_rows(site, running, 5)
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    _append(path, b'el_id": "6"}\n' + _lines(7, 8))

    running = _follow(site, path)
    _await_rows(site, running, 8)
    path.rename(site.folder / "log.ndjson.1")
    _append(site.folder / "log.ndjson.1", _lines(9, 10))  # The writer notices the new name later.
    path.write_bytes(_lines(11, 12))
    _await_rows(site, running, 12)
    path.write_bytes(_lines(13, 13))
    _await_rows(site, running, 13)
    _append(path, b'{"parcel_id": "14"}\n{"parcel')
    _await_rows(site, running, 14)
    running.process.send_signal(signal.SIGTERM)
    ended = running.ended()
    assert ended.returncode == 0, ended.stderr
    assert [summary["status"] for summary in ended.summaries] == ["loaded"] * 3
    assert sum(summary["records"]["skipped"] for summary in ended.summaries) == 5
    assert site.load("parcels", "log.ndjson.1")["status"] == "already_loaded"


@pytest.mark.slow
def test_rotations_of_a_busy_file(site: Site) -> None:
    """A writer that never rests renames its file, or cuts it off, and the load is killed: each line is loaded once."""
    path, written = site.folder / "log.ndjson", 0
    running = _follow(site, path)

    def write(lines: int) -> None:
        nonlocal written
        _append(path, _lines(written + 1, written + lines))
        written += lines

    for rotation in range(6):
        for part in range(10):
            write(400)
            if part == 5 and rotation % 3 == 1:
                running.process.send_signal(signal.SIGKILL)
                running.process.wait()
                write(400)
                running = _follow(site, path)
            time.sleep(0.02)
        # Who is not there while its file gets another name, or is cut off, cannot know what was lost.
        _await_rows(site, running, written)
        if rotation % 2:
            os.truncate(path, 0)
        else:
            path.rename(site.folder / f"log.ndjson.{rotation}")
    write(7)
    _await_rows(site, running, written)
    running.process.send_signal(signal.SIGTERM)
    assert running.ended().returncode == 0


@pytest.mark.slow
def test_what_was_rotated_while_nobody_followed(site: Site) -> None:
    """A load of the rotated files by their names adds the lines that are missing, and no other."""
    path, rotated = site.folder / "log.ndjson", site.folder / "log.ndjson.1"
    running = _follow(site, path)
    path.write_bytes(_lines(1, 3))
    _await_rows(site, running, 3)
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    _append(path, _lines(4, 5))
    path.rename(rotated)
    path.write_bytes(_lines(6, 7))
    running = _follow(site, path)
    _await_rows(site, running, 5)
    counts = site.load("parcels", "log.ndjson.*")["records"]
    assert (counts["read"], counts["skipped"], counts["loaded"]) == (5, 3, 2)
    _await_rows(site, running, 7)


@pytest.mark.slow
def test_a_named_pipe(site: Site) -> None:
    """A pipe is followed from one writer to the next; SIGINT commits what was read, and the exit code is 0."""
    path = site.folder / "pipe"
    os.mkfifo(path)
    running = _follow(site, path)
    for number in (1, 4):
        with path.open("wb") as pipe:
            pipe.write(_lines(number, number + 2))
        _await_rows(site, running, number + 2)
    running.process.send_signal(signal.SIGINT)
    assert running.ended().returncode == 0


def test_standard_input(site: Site) -> None:
    """A signal commits the whole lines of standard input; one that ends, or a refused record, gives the usual code."""
    running = _follow(site, "-")
    running.send(_lines(1, 2) + b'{"half')
    _await_rows(site, running, 2)
    running.process.send_signal(signal.SIGTERM)
    assert running.ended().returncode == 0
    ended = site.run("load", "parcels", "-", "--follow", stdin='{"parcel_id": "3", "weight": "x"}', own_process=True)
    assert ended.returncode == 1, ended.stderr
    for options in (["a", "b"], ["config"], ["a", "--atomic"], ["a", "--mode", "replace"], ["a", "--limit", "3"]):
        assert site.run("load", "parcels", "--follow", *options).returncode == 2
