"""A failed store in an object store keeps the promises of a folder: complete or absent, and safe before the commit."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

import etl
from etl.errors import UsageError
from etl.ingestion.failed_store.files import place_of
from etl.ingestion.failed_store.objects import ObjectPath, StoreError
from etl.ingestion.failed_store.store import FailedStore
from etl.settings import Url, folder_or_url
from tests.failed_store.test_leftovers import BOXES
from tests.support.commands import Ended
from tests.support.site import Site
from tests.support.stores import s3_replaced

STORE = "s3://failures/night"
OPTIONS = ("--batch-rows", "5", "--workers", "1", "--max-rejected", "50%", "--no-precalculate")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Let moto replace S3, with a bucket `failures`; give a client of it."""
    with s3_replaced("failures") as client:
        yield client


class Store:
    """A site whose failed store is in a bucket, empty at first."""

    def __init__(self, site: Site, s3: Any) -> None:
        self.site = site
        self.s3 = s3
        site.define(BOXES)
        for key in self.names():
            s3.delete_object(Bucket="failures", Key=key)
        self.write(20)

    def write(self, count: int) -> None:
        """Write that many boxes; the first of each five cannot load."""
        boxes = [{"id": n, "n": n if n % 5 else -1} for n in range(count)]
        (self.site.folder / "boxes.ndjson").write_text("".join(json.dumps(box) + "\n" for box in boxes))

    def run(self, *words: str, conninfo: str | None = None) -> Ended:
        """Run a command with this failed store."""
        access = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return self.site.run(*words, env=access | {"ETL_FAILED_DIR": STORE}, conninfo=conninfo)

    def load(self, conninfo: str | None = None) -> Ended:
        """Load the boxes."""
        return self.run("load", "boxes", "boxes.ndjson", "--json", *OPTIONS, conninfo=conninfo)

    def names(self) -> list[str]:
        """The names of all objects."""
        return [each["Key"] for each in self.s3.list_objects_v2(Bucket="failures").get("Contents", [])]

    def correct(self) -> None:
        """Correct the records of all files, as an operator who downloads and uploads them."""
        for key in self.names():
            if key.endswith(".ndjson"):
                text = self.s3.get_object(Bucket="failures", Key=key)["Body"].read()
                self.s3.put_object(Bucket="failures", Key=key, Body=text.replace(b"-1", b"1"))


@pytest.fixture
def store(site: Site, s3: Any) -> Store:
    """Give a site with a failed store in a bucket."""
    return Store(site, s3)


def test_records_are_stored_shown_replayed_and_purged(store: Store) -> None:
    """Each command of the failed store works with a URL, and names objects by their URLs; nothing else is left."""
    done = store.load()
    assert done.returncode == 1, done.stderr
    assert done.summary["failed_store"] == STORE
    folder = f"night/boxes/{done.summary['run']}"
    ids = store.site.failures.ids()
    assert len(ids) == 4
    assert sorted(store.names()) == sorted(f"{folder}/{each}.{end}" for each in ids for end in ("json", "ndjson"))
    shown = store.run("failed", "show", ids[0])
    assert f"  {STORE}/boxes/{done.summary['run']}/{ids[0]}.ndjson" in shown.stdout.splitlines()
    [line] = store.run("failed", "show", ids[0], "--json").stdout.splitlines()
    assert json.loads(line)["texts"] == ['{"id": 0, "n": -1}']
    assert f"--failed-dir {STORE}" in store.run("runs", "show", "latest").stdout
    assert store.run("failed", "replay", ids[0]).returncode == 1
    assert store.run("failed", "discard", f"{ids[0]}r", "--reason", "a test").returncode == 0
    store.correct()
    assert store.run("failed", "replay", "--all").returncode == 0
    assert store.site.value("select count(*) from lab.boxes") == 19
    noted = json.loads(store.s3.get_object(Bucket="failures", Key=f"{folder}/{ids[1]}.json")["Body"].read())
    assert noted["state"] == "replayed"
    assert "5 files with" in store.run("failed", "purge", "--older-than", "0h").stdout
    assert store.names() == []


def test_what_the_store_does_not_take_is_not_committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose second object cannot be written is in no table: exit code 4, and the next load brings it in."""
    write, written = ObjectPath.write_bytes, []

    def failing(self: ObjectPath, data: bytes) -> None:
        if "probe" not in self.name:
            written.append(self.name)
            if len(written) == 4:
                raise StoreError("no answer in time")
        write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectPath, "write_bytes", failing)
        done = store.load()
    assert done.returncode == 4
    assert f"the failed store {STORE} cannot take a file: no answer in time" in done.stderr
    named = store.site.failures.ids()
    assert store.site.value("select count(*) from lab.boxes") == 4 * len(named) < 16
    lonely = [key for key in store.names() if Path(key).stem not in named]
    assert [Path(key).suffix for key in lonely].count(".json") == len(lonely) > 0
    done = store.load()
    assert (done.returncode, done.summary["records"]["loaded"]) == (1, 16 - 4 * len(named)), done.stderr
    assert store.site.value("select count(*) from lab.boxes") == 16
    assert len(store.site.failures.ids()) == 4
    pairs = [key for key in store.names() if "/aside/" not in key]
    assert len(pairs) == 8


def test_a_file_that_a_crash_left_is_moved_aside(store: Store) -> None:
    """Complete objects that the ledger does not name go to the folder `aside` of their run, and are purged by age."""
    run = store.load().summary["run"]
    named = set(store.names())
    for ending in ("json", "ndjson"):
        store.s3.put_object(Bucket="failures", Key=f"night/boxes/{run}/{run}-77-r.{ending}", Body=b"{}")
    assert "0 files" in store.run("failed", "purge", "--older-than", "1d").stdout
    aside = {f"night/boxes/{run}/aside/{run}-77-r.{ending}" for ending in ("json", "ndjson")}
    assert set(store.names()) == named | aside
    assert "2 files" in store.run("failed", "purge", "--older-than", "0h").stdout
    assert set(store.names()) == named


def test_a_copy_of_the_database_keeps_to_its_own_objects(store: Store) -> None:
    """Objects of another database are not overwritten, and not replayed before they are adopted."""
    store.load()
    before = set(store.names())
    with store.site.copied() as copy:
        store.write(33)
        assert store.load(conninfo=copy).returncode == 1
        assert set(store.names()) > before
        replay = store.run("failed", "replay", *store.site.failures.ids(), conninfo=copy)
        assert (replay.returncode, "belongs to another database" in replay.stderr) == (2, True)
        assert store.run("failed", "adopt", conninfo=copy).stdout == "4 files belong to this database now\n"
        store.correct()
        assert store.run("failed", "replay", "--all", conninfo=copy).returncode == 0


def test_the_library_reads_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`etl.failed` gives the URL of each file, and its records."""
    store.load()
    monkeypatch.chdir(store.site.folder)
    first, *_ = etl.failed(failed_dir=STORE, content=True, database=store.site.conninfo)
    assert str(first.path).startswith(f"{STORE}/boxes/")
    assert (first.missing, first.records[0].text) == (None, '{"id": 0, "n": -1}')


def test_a_source_of_the_store_is_refused(store: Store) -> None:
    """`etl load` of an object of the failed store names the command that replays it."""
    store.load()
    key = next(key for key in store.names() if key.endswith(".ndjson"))
    done = store.run("load", "boxes", f"s3://failures/{key}")
    assert (done.returncode, "etl failed replay" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://missing/night", "cannot be written: there is no such bucket"),
        ("https://host/night", "cannot be at https://"),
        ("sftp://host/night", "cannot be at sftp://"),
        ("s3://key:secret@failures/night", "has a user or a query"),
        ("s3://", "expected s3:// and a host or bucket"),
    ],
)
def test_a_place_that_cannot_be_one_is_refused(store: Store, place: str, message: str) -> None:
    """Exit code 2 before anything is loaded, with the reason and without a secret."""
    done = store.run("load", "boxes", "boxes.ndjson", "--failed-dir", place, *OPTIONS)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "secret" not in done.stderr
    assert store.site.count_batches() == 0


def test_a_store_that_does_not_answer_is_no_empty_store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the network is not read as a missing file: the name may be that of another database."""
    del s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    folder = place_of(Url("s3://failures/elsewhere"))
    store = FailedStore(Url("s3://failures/elsewhere"))
    store.belong_to("7.5")
    try:
        for asked in (folder.exists, store.probe):
            with pytest.raises(StoreError):
                asked()
        for refused in (store.details, store.content, store.require_own, store.remove):
            with pytest.raises(UsageError, match="cannot"):
                refused("boxes", "run", "run-0-r")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_names_of_objects_are_those_of_paths() -> None:
    """What the store asks of a name has the same answer for a path and for an object."""
    for name in ("a.b/c.ndjson", "a.b/c", "a/.c.json"):
        path, found = Path(f"/bucket/{name}"), ObjectPath(None, "s3", f"bucket/{name}")
        assert (found.name, found.stem, found.suffix) == (path.name, path.stem, path.suffix)
        assert str(found.with_suffix(".x")).removeprefix("s3:/") == str(path.with_suffix(".x"))
        assert str(found.parent / "d").removeprefix("s3:/") == str(path.parent / "d")
    assert folder_or_url("failed") == Path("failed")
    assert folder_or_url("s3://a/b") == "s3://a/b"
