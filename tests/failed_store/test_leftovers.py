"""Two databases with one failed store, and the files that a crash left in it."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.ingestion.ledger import locks
from tests.support.site import Site

BOXES = """
name = "boxes"
mode = "merge"
key = ["id"]
[[table]]
name = "lab.boxes"
[table.columns]
id = { type = "integer", required = true }
n = { type = "integer", min = 0 }
"""
OPTIONS = ("--batch-rows", "5", "--workers", "1", "--max-rejected", "50%", "--no-precalculate")


@pytest.fixture
def copy(site: Site) -> Iterator[str]:
    """Load half of a source into a site; give the address of a copy of its database."""
    site.define(BOXES)
    _write(site, 20)
    assert site.load("boxes", "boxes.ndjson", *OPTIONS)["records"]["rejected"] == 4
    with site.copied() as address:
        yield address


def _write(site: Site, count: int) -> None:
    """Write that many boxes; the first of each five cannot load."""
    boxes = [{"id": n, "n": n if n % 5 else -1} for n in range(count)]
    (site.folder / "boxes.ndjson").write_text("".join(json.dumps(box) + "\n" for box in boxes))


def _files(site: Site) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(site.store.glob("*/*/*.*")) if path.suffix != ".tmp"}


def test_a_copy_of_a_database_keeps_to_its_own_files(site: Site, copy: str) -> None:
    """A load into a copy, of the same run and with the same folder, changes no file that the first database needs."""
    before = _files(site)
    assert len(before) == 8
    _write(site, 33)
    done = site.run("load", "boxes", "boxes.ndjson", *OPTIONS, "--batch-rows", "7", conninfo=copy)
    assert done.returncode == 1
    after = _files(site)
    assert {path: after[path] for path in before} == before
    own = [path for path in after if path not in before and path.suffix == ".ndjson"]
    assert own
    replay = site.run("failed", "replay", "--all", conninfo=copy)
    assert replay.returncode == 2
    assert "belongs to another database" in replay.stderr
    assert replay.stdout.count("replayed ") == len(own)
    assert f"{len(own)} files with" in site.run("failed", "purge", "--older-than", "0h", conninfo=copy).stdout
    assert {path: text for path, text in _files(site).items() if path in before} == before
    assert site.load("boxes", "boxes.ndjson", *OPTIONS)["exit_code"] == 1
    for failure in site.failures.waiting():
        site.failures.edit(failure, ("-1", "1"))
    assert site.run("failed", "replay", "--all").returncode == 0
    assert site.value("select count(*) from lab.boxes") == 33


def test_a_file_of_another_database_is_not_overwritten(site: Site, copy: str) -> None:
    """A batch whose files would have the names of those of another database stores them in a folder beside."""
    _write(site, 30)
    assert site.load("boxes", "boxes.ndjson", *OPTIONS)["exit_code"] == 1
    before = _files(site)
    assert site.run("load", "boxes", "boxes.ndjson", *OPTIONS, conninfo=copy).returncode == 1
    after = _files(site)
    assert {path: after[path] for path in before} == before
    own = [path for path in after if path not in before and path.suffix == ".ndjson"]
    assert len(own) == 2
    for path in own:
        path.write_text(path.read_text().replace("-1", "1"))
    replay = site.run("failed", "replay", *(path.stem for path in own), conninfo=copy)
    assert (replay.returncode, replay.stdout.count(": 1 loaded, 0 refused again")) == (0, 2)
    assert {path: text for path, text in _files(site).items() if path in before} == before
    _write(site, 33)
    assert site.load("boxes", "boxes.ndjson", *OPTIONS)["exit_code"] == 1


def test_a_restored_database_adopts_the_files(site: Site, copy: str) -> None:
    """After `adopt` a database that has taken the place of another continues its runs and replays its failures."""
    _write(site, 30)
    assert site.load("boxes", "boxes.ndjson", *OPTIONS)["exit_code"] == 1
    assert site.run("failed", "adopt", conninfo=copy).stdout == "6 files belong to this database now\n"
    assert site.run("failed", "adopt", conninfo=copy).stdout == "0 files belong to this database now\n"
    loaded = site.run("load", "boxes", "boxes.ndjson", *OPTIONS, conninfo=copy)
    assert (loaded.returncode, "file_moved_aside" in loaded.stderr) == (1, True)
    restored = Site(copy, site.folder)
    for failure in restored.failures.waiting():
        restored.failures.edit(failure, ("-1", "1"))
    assert site.run("failed", "replay", "--all", conninfo=copy).returncode == 0
    assert restored.value("select count(*) from lab.boxes") == 30
    restored.close()


def test_files_aside_are_purged_by_their_age(site: Site) -> None:
    """`failed purge` removes old files that were moved aside, and no younger ones."""
    site.define(BOXES)
    _write(site, 20)
    run = site.load("boxes", "boxes.ndjson", *OPTIONS)["run"]
    (site.store / "boxes" / run / f"{run}-77-r.ndjson").write_text("{}")
    _write(site, 22)
    site.load("boxes", "boxes.ndjson", *OPTIONS)
    [path] = site.store.glob("*/*/aside/*")
    assert "0 files" in site.run("failed", "purge", "--older-than", "1d").stdout
    os.utime(path, (time.time() - 100_000, time.time() - 100_000))
    assert "a crash left" in site.run("failed", "purge", "--older-than", "1d").stdout
    assert list(site.store.glob("*/*/aside")) == []


def test_a_purge_clears_what_no_attempt_of_its_run_clears(site: Site) -> None:
    """`failed purge` moves files aside that the ledger does not name, and removes old ones, but not beside a load."""
    site.define(BOXES)
    _write(site, 20)
    run = site.load("boxes", "boxes.ndjson", *OPTIONS)["run"]
    folder = site.store / "boxes" / run
    named = {path.name for path in folder.iterdir()}
    for name in (f"{run}-77-r.ndjson", f"{run}-77-r.json", f".{run}-78-r.json.tmp"):
        (folder / name).write_text("{}")
    with site.connect() as holder:
        locks.hold_run(holder, run)
        assert "0 files" in site.run("failed", "purge", "--older-than", "0h").stdout
        assert len(list(folder.iterdir())) == len(named) + 3
    assert "0 files" in site.run("failed", "purge", "--older-than", "1d").stdout
    assert {path.name for path in folder.iterdir()} == named | {"aside"}
    assert {path.name for path in (folder / "aside").iterdir()} == {f"{run}-77-r.ndjson", f"{run}-77-r.json"}
    assert "2 files" in site.run("failed", "purge", "--older-than", "0h").stdout
    assert {path.name for path in folder.iterdir()} == named


def test_others_are_replayed_when_one_cannot_be(site: Site) -> None:
    """A missing file, or a missing definition, keeps its own failures from being replayed and no others."""
    site.define(BOXES)
    other = site.define(BOXES.replace("boxes", "crates"))
    _write(site, 20)
    site.load("boxes", "boxes.ndjson", *OPTIONS)
    site.load("crates", "boxes.ndjson", *OPTIONS)
    for failure in site.failures.waiting():
        site.failures.edit(failure, ("-1", "1"))
    gone = site.failures.waiting()[0]
    site.failures.path(gone).unlink()
    (site.folder / "config" / "datasets" / f"{other.name}.toml").unlink()
    done = site.run("failed", "replay", "--all")
    assert done.returncode == 2
    assert done.stdout.count("replayed ") == 3
    assert (site.value("select count(*) from lab.boxes"), site.value("select count(*) from lab.crates")) == (19, 16)
    assert f"{gone}.ndjson of the failed store" in done.stderr
    assert "crates" in done.stderr


def test_a_replay_of_what_was_replayed_names_its_rest(site: Site) -> None:
    """If records were refused again by a replay, a further replay of the first id says under which id they wait."""
    site.define(BOXES)
    _write(site, 5)
    site.load("boxes", "boxes.ndjson", *OPTIONS)
    [first] = site.failures.waiting()
    assert site.run("failed", "replay", first).returncode == 1
    assert site.run("failed", "replay", f"{first}r").returncode == 1
    done = site.run("failed", "replay", first)
    assert done.returncode == 1
    assert f"{first} does not wait: replayed; what was refused again waits as {first}rr" in done.stderr
    assert site.run("failed", "discard", f"{first}rr", "--reason", "a test").returncode == 0
    assert site.run("failed", "replay", first).returncode == 0


def test_a_discard_of_several_continues_after_one_that_does_not_wait(site: Site) -> None:
    """A failure that does not wait is named with its state of now; the others are discarded, and listeners wake."""
    site.define(BOXES)
    _write(site, 10)
    site.load("boxes", "boxes.ndjson", *OPTIONS)
    first, second = site.failures.waiting()
    site.run("failed", "discard", first, "--reason", "a test")
    site.ask("listen etl_runs")
    done = site.run("failed", "discard", first, second, "--reason", "a test")
    assert (done.returncode, done.stdout) == (2, f"discarded {second}: 1 records\n")
    assert f"{first} does not wait: discarded" in done.stderr
    assert [note.payload for note in site.connection.notifies(timeout=5, stop_after=1)] == ["boxes"]
