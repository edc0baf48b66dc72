import errno
import gzip
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl.errors import DatabaseError
from etl.ingestion.failed_store.failure import Origin, build_failure
from etl.ingestion.failed_store.locating import RecordLocation, length_in
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.values import Failure, Fault, Rejected
from tests.support.records import as_lines
from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "append"
key = ["parcel_id"]
[[table]]
name = "lab.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
weight_kg = { type = "numeric", min = 0 }
note = "text"
"""

GOOD = [{"parcel_id": f"P{number}", "weight_kg": number, "note": "fine"} for number in range(1, 10)]


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of `parcels`."""
    site.define(PARCELS)
    return site


def _load(site: Site, name: str, content: bytes | str | None = None, *options: str) -> dict[str, Any]:
    """Load a source of parcels, written first if content is given, and return its summary."""
    if content is not None:
        (site.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return site.load("parcels", name, "--retry-attempts", "1", *options)


def _bad(number: int) -> dict[str, Any]:
    return {"parcel_id": f"B{number}", "weight_kg": -number, "note": "kept as it is: \\N, \t, Łódź"}


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): stat.filemode(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "umask", [0, 0o777, *(pytest.param(umask, marks=pytest.mark.slow) for umask in (0o022, 0o077, 0o277))]
)
def test_only_its_owner_may_read_it(site: Site, umask: int) -> None:
    """Folders have mode 0700 and files 0600 with any umask; an existing folder for a group keeps its mode."""
    before = os.umask(umask)
    try:
        first = _load(site, "first.ndjson", as_lines(GOOD[0], _bad(1)), "--failed-dir", "made/failed")
    finally:
        os.umask(before)
    assert first["exit_code"] == 1
    [failed_id] = site.failures.ids()
    failed = site.folder / "made" / "failed"
    assert stat.filemode(failed.stat().st_mode) == "drwx------"
    assert _files(failed) == {
        "parcels": "drwx------",
        f"parcels/{first['run']}": "drwx------",
        f"parcels/{first['run']}/{failed_id}.json": "-rw-------",
        f"parcels/{first['run']}/{failed_id}.ndjson": "-rw-------",
    }
    shared = site.folder / "shared"
    shared.mkdir(mode=0o750)
    _load(site, "second.ndjson", as_lines(_bad(2)), "--failed-dir", "shared")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o750
    assert {mode for name, mode in _files(shared).items() if "." not in name[:9]} == {"drwx------", "-rw-------"}


@pytest.mark.parametrize(
    "mode", [0o701, *(pytest.param(mode, marks=pytest.mark.slow) for mode in (0o777, 0o755, 0o1777))]
)
def test_an_existing_folder_that_is_open_is_made_private(site: Site, mode: int) -> None:
    """A folder of the user that others may read is made private, and the log says so."""
    failed = site.folder / "open"
    failed.mkdir()
    failed.chmod(mode)
    (site.folder / "a.ndjson").write_text(as_lines(_bad(1)))
    done = site.run("load", "parcels", "a.ndjson", "--failed-dir", "open", "--max-rejected", "1")
    assert done.returncode == 1
    assert stat.S_IMODE(failed.stat().st_mode) == 0o700
    [event] = done.events("failed_store_made_private")
    assert event["mode_before"] == f"{mode:04o}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_an_open_folder_of_another_user_is_refused(site: Site) -> None:
    """The records of a load are not written where others may read them: exit code 2, and nothing is loaded."""
    failed = site.folder / "theirs"
    failed.mkdir()
    failed.chmod(0o777)
    os.chown(failed, 12345, 12345)
    (site.folder / "a.ndjson").write_text(as_lines(GOOD[0]))
    done = site.run("load", "parcels", "a.ndjson", "--failed-dir", "theirs")
    assert done.returncode == 2
    assert "the failed store theirs belongs to another user and is open to others: mode 0777" in done.stderr
    assert stat.S_IMODE(failed.stat().st_mode) == 0o777
    assert site.value("select count(*) from lab.parcels") == 0
    failed.chmod(0o700)
    assert site.run("load", "parcels", "a.ndjson", "--failed-dir", "theirs").returncode == 0


def test_a_link_as_the_folder_is_logged(site: Site) -> None:
    """The log names the folder that a link leads to: somebody else may have made the link."""
    target = site.folder / "elsewhere"
    target.mkdir(mode=0o700)
    (site.folder / "link").symlink_to(target)
    (site.folder / "a.ndjson").write_text(as_lines(GOOD[0]))
    [event] = site.run("load", "parcels", "a.ndjson", "--failed-dir", "link").events("failed_store_is_link")
    assert event["target"] == str(target.resolve())


def test_the_details_of_rejected_records(site: Site) -> None:
    """ID.json has the members of the contract in their order, and the facts about each record of ID.ndjson."""
    site.ask("alter table lab.parcels add constraint parcels_by_hand check (note <> 'no')")
    refused = {"parcel_id": "P77", "note": "no"}
    broken = '{"parcel_id": "P78",\t"weight_kg" 8}'
    source = as_lines(GOOD[0], _bad(7), "", refused, broken, {"weight_kg": 3}, GOOD[1])
    began = datetime.now(UTC).replace(microsecond=0)
    summary = _load(site, "parcels.ndjson", "\ufeff" + source)
    assert (summary["exit_code"], summary["failed_store"]) == (1, "failed")
    failed_id = f"{summary['run']}-3-r"
    assert site.failures.ids() == [failed_id]
    assert sorted(path.name for path in site.failures.path(failed_id).parent.iterdir()) == [
        f"{failed_id}.json",
        f"{failed_id}.ndjson",
    ]
    lines = site.failures.path(failed_id).read_bytes()
    assert lines.decode() == as_lines(_bad(7), refused, broken, {"weight_kg": 3})
    details = site.failures.details(failed_id)
    created_at = datetime.fromisoformat(details["created_at"])
    assert began <= created_at <= datetime.now(UTC) < began + timedelta(minutes=1)
    offsets = [("\ufeff" + source).encode().index(line) for line in lines.splitlines()]
    records = [
        (2, offsets[0], "B7", "lab.parcels", "weight_kg", "23514", "expected 0 or more"),
        (3, offsets[1], "P77", "lab.parcels", None, "23514", "by the constraint parcels_by_hand: check violation"),
        (4, offsets[2], None, None, None, "22P02", "not JSON: expecting ':' delimiter"),
        (5, offsets[3], None, "lab.parcels", "parcel_id", "23502", "expected a value, got none"),
    ]
    names = ("record", "offset", "key", "table", "column", "sqlstate", "reason")
    for record, (*places, reason) in zip(details["records"], records, strict=True):
        assert tuple(record) == names
        assert [record[name] for name in names[:-1]] == places
        assert reason in record["reason"]
    assert list(details.items()) == [
        ("id", failed_id),
        ("run", summary["run"]),
        (
            "database",
            site.value(
                "select (select system_identifier from pg_control_system()) || '/' || oid from"
                " pg_database where datname = current_database()"
            ),
        ),
        ("dataset", "parcels"),
        ("source", "parcels.ndjson"),
        ("batch", 3),
        ("kind", "rejected"),
        ("state", "pending"),
        ("created_at", details["created_at"]),
        ("attempts", 1),
        ("parent", None),
        ("note", None),
        ("sha256", hashlib.sha256(lines).hexdigest()),
        ("error", {"sqlstate": "23514", "message": details["records"][0]["reason"]}),
        ("records", details["records"]),
    ]
    row = site.ask(
        "select run, dataset, source, batch, kind, state, attempts, parent, note, sha256, count_records, sqlstate,"
        " message from etl.failures"
    )[0]
    error = details["error"]
    assert row == (
        *(
            details[name]
            for name in ("run", "dataset", "source", "batch", "kind", "state", "attempts", "parent", "note")
        ),
        *(details["sha256"], 4, error["sqlstate"], error["message"]),
    )


def test_a_failed_batch_is_kept_beside_its_rejected_records(site: Site) -> None:
    """The records of a batch that could not be loaded are kept as failed, and its bad records as rejected."""
    site.on_insert("lab.parcels", "true", "raise 'busy' using errcode = '57014';")
    summary = _load(site, "parcels.json", json.dumps([GOOD[0], _bad(1), GOOD[1]]))
    assert summary["records"] | {"read": 3, "rejected": 1, "failed": 2, "pending": 3} == summary["records"]
    rejected, failed = f"{summary['run']}-1-r", f"{summary['run']}-1-f"
    assert site.failures.ids() == [failed, rejected]
    assert site.failures.path(rejected).read_text() == as_lines(_bad(1))
    assert site.failures.path(failed).read_text() == as_lines(GOOD[0], GOOD[1])
    details = site.failures.details(failed)
    assert (details["kind"], details["error"]["sqlstate"]) == ("failed", "57014")
    assert [(each["record"], each["key"], each["sqlstate"]) for each in details["records"]] == [
        (1, "P1", "57014"),
        (3, "P2", "57014"),
    ]


def _fail_at_commit(site: Site) -> None:
    """Make each batch fail at its commit, after all its files were written."""
    site.on_insert("lab.parcels", "true", "raise 'stopped' using errcode = 'XX000';", moment="in COMMIT")


def test_a_batch_that_is_tried_again_writes_the_same_file_again(site: Site) -> None:
    """An id is made of run and batch, so after a failed commit the next attempt overwrites the same file."""
    _fail_at_commit(site)
    stopped = _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1)))
    assert (stopped["exit_code"], stopped["records"]["loaded"], stopped["records"]["pending"]) == (4, 0, 0)
    assert site.failures.ids() == []
    failed_id = f"{stopped['run']}-0-r"
    written = site.failures.path(failed_id).read_bytes()
    site.ask("drop trigger fault on lab.parcels")
    summary = _load(site, "parcels.ndjson")
    assert (summary["run"], summary["exit_code"]) == (stopped["run"], 1)
    assert site.failures.ids() == [failed_id]
    assert site.failures.path(failed_id).read_bytes() == written == as_lines(_bad(1)).encode()


def test_a_sweep_moves_only_files_that_the_ledger_does_not_name(site: Site) -> None:
    """The next attempt removes temporary files of its run, and moves complete ones aside; all others stay."""
    other = _load(site, "other.ndjson", as_lines(_bad(9)))
    summary = _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1)))
    run = summary["run"]
    folder = site.store / "parcels" / run
    aside = [f"{run}-999-r.ndjson", f"{run}-999-r.json", f"{run}-55-f.json"]
    left = [*aside, f".{run}-0-r.json{site.failures.temporary_ending()}", f".{run}-0-r.ndjson.tmp"]
    stay = [
        f".{run}-0-r.ndjson.01234567.tmp",
        "notes.txt",
        f"{run}-0-r.ndjson~",
        f"{run}-0-r.ndjson.bak",
        f".{run}-0-r.ndjson.swp",
        ".hidden",
        "before",
    ]
    for name in left + stay:
        (folder / name).write_text("x")
    (folder / "folder").mkdir()
    elsewhere = site.store / "parcels" / other["run"] / f"{other['run']}-999-r.ndjson"
    elsewhere.write_text("x")
    outside = site.store / f"{run}-999-r.ndjson"
    outside.write_text("x")
    _load(site, "parcels.ndjson")  # nothing new: the store is not changed
    assert all((folder / name).exists() for name in left)
    grown = _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1), GOOD[1]))
    assert (grown["run"], grown["records"]["loaded"]) == (run, 1)
    kept = [f"{run}-0-r.json", f"{run}-0-r.ndjson"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*stay, *kept, "folder", "aside"])
    assert sorted(path.name for path in (folder / "aside").iterdir()) == sorted(aside)
    assert elsewhere.exists()
    assert outside.exists()


def _failure(failed_id: str, *texts: bytes, key: str | None = "K1") -> Failure:
    origin = Origin(id_prefix=failed_id, run="20261121T081500Z-3f9a1c", dataset="parcels", source="feed.json", batch=0)
    fault = Fault(sqlstate="22P02", reason="expected a number", table="lab.parcels", column="weight_kg")
    places = range(1, len(texts) + 1)
    return build_failure(
        origin,
        "rejected",
        [Rejected(place=place, key=key, fault=fault) for place in places],
        {place: RecordLocation(place, 100 * place, text) for place, text in zip(places, texts, strict=True)},
    )


class _Full:
    """An operating system of which one call fails once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
        self.calls = 0
        for name in ("open", "fsync", "replace", "mkdir"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), call))

    def _failing(self, function: Callable[..., Any], call: int) -> Callable[..., Any]:
        def failing(*arguments: Any, **others: Any) -> Any:
            self.calls += 1
            if self.calls == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **others)

        return failing


def test_a_file_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full at any step, no partial file is left, an error is reported, and a retry writes the file."""
    for call in range(1, 100):
        folder = tmp_path / str(call)
        store = FailedStore(folder)
        store.prepare()
        with store, monkeypatch.context() as patched:
            full = _Full(patched, call)
            first, second = store.write(_failure("a-", b'{"n": 1}')), store.write(_failure("b-", b'{"n": 2}'))
            faults = [future.exception(timeout=10) for future in (first, second)]
        if full.calls < call:
            break
        assert [type(fault) for fault in faults].count(DatabaseError) == 1
        for path in folder.rglob("*.ndjson"):
            assert path.read_bytes() in {b'{"n": 1}\n', b'{"n": 2}\n'}
        for path in folder.rglob("*.json"):
            assert json.loads(path.read_bytes())["state"] == "pending"
        done = {fault is None and name for name, fault in zip("ab", faults, strict=True)}
        for name in done - {False}:
            assert len(list(folder.glob(f"*/*/{name}-r.*"))) == 2
        with FailedStore(folder) as again:
            again.write(_failure("a-", b'{"n": 1}')).result()
            again.write(_failure("b-", b'{"n": 2}')).result()
        assert len(list(folder.rglob("*.ndjson")) + list(folder.rglob("*.json"))) == 4
    else:
        pytest.fail("it never came to its end")
    assert call > 15


def test_a_full_disk_ends_the_load_and_loses_nothing(site: Site) -> None:
    """When a file does not fit on the disk, its batch does not commit: exit code 4; later the same command loads it."""
    bad = [_bad(number) | {"note": "x" * 500} for number in range(1, 101)]
    (site.folder / "parcels.ndjson").write_text(as_lines(GOOD[0], bad[0], *GOOD[1:], *bad[1:]))
    command = ["load", "parcels", "parcels.ndjson", "--json", "--batch-rows", "10", "--max-rejected", "100%"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        full = site.run(*command, env={"PYTHONDONTWRITEBYTECODE": "1"})  # A partial .pyc would remain.
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full.returncode == 4
    assert "error: the failed store failed cannot take a file: file too large" in full.stderr
    summary = full.summary
    assert summary["records"] == {
        "read": 20,
        "loaded": 9,
        "unchanged": 0,
        "rejected": 1,
        "failed": 0,
        "skipped": 0,
        "withheld": 10,
        "pending": 1,
    }
    assert [row[0] for row in site.ask("select count_records from etl.batches")] == [10]
    assert len(list(site.store.rglob("*.ndjson"))) == 1
    again = site.run(*command)
    assert again.returncode == 1
    assert site.value("select count(*) from lab.parcels") == 9
    kept = [
        line for failed_id in site.failures.ids() for line in site.failures.path(failed_id).read_text().splitlines()
    ]
    assert sorted(kept) == sorted(json.dumps(each) for each in bad)
    assert not [path for path in site.store.rglob("*") if path.suffix == ".tmp"]


def test_a_batch_commits_only_when_its_file_is_safe(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is not visible before its file is safely on disk."""
    asked, may_continue = threading.Event(), threading.Event()
    flush = os.fsync

    def slow(descriptor: int) -> None:
        asked.set()
        assert may_continue.wait(20)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    visible: list[int] = []

    def look() -> None:
        assert asked.wait(20)
        time.sleep(0.3)  # time enough for a batch that does not wait to be visible
        with site.connect() as connection:
            visible.extend(connection.execute("select count(*) from lab.parcels").fetchone() or ())
        may_continue.set()

    looking = threading.Thread(target=look)
    looking.start()
    summary = _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1)))
    looking.join()
    assert visible == [0]
    assert summary["exit_code"] == 1
    assert site.value("select count(*) from lab.parcels") == 1


def test_list_and_show_for_a_person_and_for_a_program(site: Site) -> None:
    """`list` prints a line for each pending file, `show` each record with place, fault and text; or both JSON."""
    summary = _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1), GOOD[1], _bad(2)))
    other = _load(site, "more.ndjson", as_lines(GOOD[0], "[7]"))
    failed_id, more = f"{summary['run']}-0-r", f"{other['run']}-0-r"
    done = site.run("failed", "list")
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if failed_id in line]
    assert re.split(r"\s{2,}", line.strip()) == [
        *(failed_id, "parcels", "parcels.ndjson", "rejected", "pending", "2", "23514", "expected 0 or more", "1")
    ]
    listed = site.run("failed", "list", "--json").lines
    assert [row["id"] for row in listed] == [failed_id, more]
    assert listed[0] | {"state": "pending", "count_records": 2, "sqlstate": "23514", "kind": "rejected"} == listed[0]
    assert [row["id"] for row in site.run("failed", "list", "--json", "--run", other["run"]).lines] == [more]
    assert site.run("failed", "list", "--json", "--dataset", "vehicles").lines == []
    shown = site.run("failed", "show", failed_id)
    assert (shown.returncode, shown.stderr) == (0, "")
    text = (site.folder / "parcels.ndjson").read_bytes()
    offset, length = text.index(b'{"parcel_id": "B1"'), len(json.dumps(_bad(1)))
    assert shown.stdout.splitlines()[:6] == [
        f"{failed_id}: 2 rejected records of parcels.ndjson, pending",
        "",
        f"record 2 at byte {offset}, key B1",
        "  23514 lab.parcels.weight_kg: expected 0 or more",
        f"  {json.dumps(_bad(1))}",
        f"  tail -c +{offset + 1} parcels.ndjson | head -c {length}",
    ]
    assert "expected an object" in site.run("failed", "show", more).stdout
    assert "key unknown" in site.run("failed", "show", more).stdout
    [document] = site.run("failed", "show", failed_id, "--json").lines
    kept = site.failures.details(failed_id)
    path = str(site.failures.path(failed_id).relative_to(site.folder))
    assert document == kept | {"file": path, "texts": [json.dumps(_bad(1)), json.dumps(_bad(2))]}
    [discarded] = site.run("failed", "discard", failed_id, "--reason", "a test", "--json").lines
    assert discarded == {"id": failed_id, "count_records": 2, "reason": "a test"}
    assert [row["id"] for row in site.run("failed", "list", "--json").lines] == [more]
    every = {row["id"]: (row["state"], row["note"]) for row in site.run("failed", "list", "--json", "--all").lines}
    assert every == {failed_id: ("discarded", "a test"), more: ("pending", None)}
    assert (
        f"{failed_id}: 2 rejected records of parcels.ndjson, discarded" in site.run("failed", "show", failed_id).stdout
    )


def _printed_commands(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("  tail -c ")]


def _run(command: str, folder: Path) -> bytes:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", ["parcels.json", "it's a file; (1).json", "-parcels.json"])
def test_the_command_that_is_shown_prints_the_original(site: Site, name: str) -> None:
    """For a plain file, `show` prints a command for the bytes of the record in the source, also after an edit."""
    texts = [json.dumps(each, indent=2).replace("\n", "\r\n") for each in (_bad(1), GOOD[0], _bad(2), _bad(3))]
    (site.folder / name).write_bytes((" [ " + " ,\n\n".join(texts) + "]").encode())
    assert site.run("load", "parcels", "--", name).returncode == 1
    [failed_id] = site.failures.ids()
    originals = [texts[0].encode(), texts[2].encode(), texts[3].encode()]
    commands = _printed_commands(site.run("failed", "show", failed_id).stdout)
    assert [_run(command, site.folder) for command in commands] == originals
    lines = site.failures.path(failed_id).read_text().splitlines()
    site.failures.path(failed_id).write_text(
        as_lines('{"parcel_id": "B1"}', lines[1], lines[2].replace("-3", "3000000000"))
    )
    edited = _printed_commands(site.run("failed", "show", failed_id).stdout)
    assert [_run(command, site.folder) for command in edited] == originals


def test_the_command_that_is_shown_prints_lines_that_are_not_json(site: Site) -> None:
    """The command prints a line that is not JSON unchanged, before and after its correction in the store."""
    broken = ['{"parcel_id": "P1" "weight_kg": 1}', "no JSON at all \\ 'x'", '{"parcel_id": "P3", "note": "\x01"}']
    summary = _load(site, "parcels.ndjson", as_lines(broken[0], GOOD[3], broken[1] + " \r", broken[2]))
    assert summary["records"]["rejected"] == 3
    [failed_id] = site.failures.ids()
    for _ in range(2):
        commands = _printed_commands(site.run("failed", "show", failed_id).stdout)
        assert [_run(command, site.folder).decode() for command in commands] == broken
        site.failures.path(failed_id).write_text(as_lines(*GOOD[:3]))


def test_no_command_is_shown_for_what_has_no_offsets(site: Site) -> None:
    """For a compressed source, a pipe and a missing file, `show` prints the records and no command."""
    _load(site, "parcels.ndjson.gz", gzip.compress(as_lines(_bad(1)).encode()))
    _load(site, "gone.ndjson", as_lines(_bad(2)))
    (site.folder / "gone.ndjson").unlink()
    os.mkfifo(site.folder / "pipe")
    with subprocess.Popen(["sh", "-c", "cat > pipe"], cwd=site.folder, stdin=subprocess.PIPE) as feeding:
        assert feeding.stdin is not None
        feeding.stdin.write(as_lines(_bad(3)).encode())
        feeding.stdin.close()
        _load(site, "pipe")
    ids = site.failures.ids()
    assert len(ids) == 3
    for failed_id in ids:
        shown = site.run("failed", "show", failed_id)
        assert shown.returncode == 0
        assert site.failures.path(failed_id).read_text().strip() in shown.stdout
        assert _printed_commands(shown.stdout) == []


def test_the_length_of_a_large_record_is_found_in_the_source(tmp_path: Path) -> None:
    """The length of a record of any size is found in the source from its offset, also when its line was edited."""
    for size in (10, 1 << 18, (1 << 18) + 5, 3 << 20):
        text = json.dumps({"parcel_id": "P1", "note": "é\n]}" * size}, indent=1, ensure_ascii=False).encode()
        (tmp_path / "big.json").write_bytes(b"[" + text + b", {}]")
        for line in (text.replace(b"\n", b" "), b"{}", b"x" * (len(text) + 1000)):
            assert length_in(str(tmp_path / "big.json"), 1, line) == len(text)


def test_no_name_leaves_the_folder(site: Site) -> None:
    """A dataset, id or run cannot name a path outside of the store: exit code 2, or nothing is found."""
    secret = site.folder / "secret.ndjson"
    secret.write_text('{"secret": 1}\n')
    shutil.copy(secret, site.folder / "secret.json")
    _load(site, "parcels.ndjson", as_lines(_bad(1)))
    before = sorted(site.folder.rglob("*"))
    for name in ("../secret", "../../secret", str(secret.with_suffix("")), "parcels/../../secret", "."):
        for command in (("show", name), ("replay", name), ("discard", name, "--reason", "x")):
            done = site.run("failed", *command)
            assert done.returncode == 2
            assert f"nothing in the failed store is called {name}" in done.stderr
            assert "secret" not in done.stdout
        for option in ("--run", "--dataset"):
            done = site.run("failed", "replay", option, name)
            assert (done.returncode, done.stdout) == (0, "")
            assert site.run("failed", "list", "--json", option, name).stdout == ""
        done = site.run("load", name, "parcels.ndjson")
        assert done.returncode == 2
        assert "no dataset is called" in done.stderr
    assert sorted(site.folder.rglob("*")) == before


def test_what_the_store_holds_is_not_for_load(site: Site) -> None:
    """A load of a file of the store, by any path, is exit code 2 with the hint to replay it; nothing is loaded."""
    summary = _load(site, "parcels.ndjson", as_lines(_bad(1)))
    [failed_id] = site.failures.ids()
    path = site.failures.path(failed_id).relative_to(site.folder)
    (site.folder / "link.ndjson").symlink_to(site.failures.path(failed_id))
    (site.folder / "folder").symlink_to(site.failures.path(failed_id).parent)
    names: list[str | Path] = [
        path,
        path.with_suffix(".json"),
        site.folder / path,
        "link.ndjson",
        path.parent,
        "failed/*/*/*.ndjson",
    ]
    for name in [*names, f"folder/{failed_id}.ndjson", "./failed/../" + str(path)]:
        done = site.run("load", "parcels", "parcels.ndjson", name)
        assert done.returncode == 2
        assert "is a file of the failed store" in done.stderr
        assert "hint: etl failed replay" in done.stderr
        assert done.stdout == ""
    assert site.value("select count(*) from etl.attempts") == 1
    assert site.value("select count(*) from etl.runs") == 1
    assert summary["exit_code"] == 1


def test_a_file_beside_a_source_is_not_read(site: Site) -> None:
    """A source of lines is loaded whatever is in a .json file of the same name."""
    besides = [b"[" * 200_000, b"", b"{", b'{"id": "', json.dumps({"id": "feed", "sha256": "x"}).encode(), b"\xff" * 9]
    for number, beside in enumerate(besides):
        (site.folder / "feed.json").write_bytes(beside)
        assert _load(site, "feed.ndjson", as_lines({"parcel_id": f"F{number}"}))["exit_code"] == 0
    (site.folder / "feed.json").unlink()
    (site.folder / "feed.json").mkdir()
    assert _load(site, "feed.ndjson")["exit_code"] == 0


def test_keys_that_json_cannot_represent(site: Site) -> None:
    """A key with a lone surrogate, a NUL or great length is stored and reported, and does not affect other records."""
    keys = ["\\ud800", "a\\udfffb", "\\u0000", "x" * 300_000, "\u001b[31m"]
    records = [f'{{"parcel_id": {json.dumps(key).replace(chr(92) * 2, chr(92))}, "weight_kg": -1}}' for key in keys]
    summary = _load(site, "parcels.ndjson", as_lines(GOOD[0], *records, GOOD[1]), "--max-rejected", "100%")
    assert (summary["exit_code"], summary["records"]["loaded"], summary["records"]["rejected"]) == (1, 2, 5)
    [failed_id] = site.failures.ids()
    assert site.failures.path(failed_id).read_text() == as_lines(*records)
    stored = site.failures.details(failed_id)["records"]
    assert [each["key"] for each in stored] == ["\\ud800", "a\\udfffb", "\0", "x" * 300_000, "\u001b[31m"]
    assert site.run("failed", "show", failed_id).returncode == 0
    assert site.run("failed", "show", failed_id, "--json").returncode == 0


def test_a_missing_file_is_reported(site: Site) -> None:
    """When a file is missing, damaged or elsewhere, `show` and `replay` are exit code 2; `discard` still works."""
    _load(site, "parcels.ndjson", as_lines(GOOD[0], _bad(1)))
    [failed_id] = site.failures.ids()
    path = site.failures.path(failed_id)
    for spoil in (path.unlink, lambda: path.with_suffix(".json").write_text("{"), path.with_suffix(".json").unlink):
        text = path.read_text() if path.exists() else None
        spoil()
        for command in (("show", failed_id), ("replay", failed_id), ("replay", "--all")):
            done = site.run("failed", *command)
            assert done.returncode == 2
            assert f"cannot read {path.relative_to(site.folder).with_suffix('')}" in done.stderr
            assert "hint: " in done.stderr
        path.write_text(text or "")
        assert site.value("select state from etl.failures") == "pending"
    assert site.run("failed", "show", failed_id, "--failed-dir", "elsewhere").returncode == 2
    shutil.rmtree(site.store)
    done = site.run("failed", "discard", failed_id, "--reason", "the disk is gone")
    assert (done.returncode, done.stdout) == (0, f"discarded {failed_id}: 1 records\n")
    assert "state_not_noted" in done.stderr
    assert site.value("select state || ': ' || note from etl.failures") == "discarded: the disk is gone"
    assert _load(site, "parcels.ndjson")["exit_code"] == 0


def test_the_folder_entry_of_a_file_is_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file counts as safe, the file, its folder and each new folder above it are flushed to the disk."""
    flushed = []
    flush = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    failure = _failure("a-", b"{}")
    with FailedStore(tmp_path / "failed") as store:
        store.prepare()
        store.write(failure).result()
    run = tmp_path / "failed" / "parcels" / failure.run
    assert {tmp_path, tmp_path / "failed", tmp_path / "failed" / "parcels", run} <= {Path(name) for name in flushed}
    assert {run / ".a-r.ndjson.tmp", run / ".a-r.json.tmp"} <= {Path(name) for name in flushed}
    assert Path(flushed[-1]) == run
