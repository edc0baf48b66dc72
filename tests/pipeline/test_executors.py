"""What an executor must keep: a repeated task gives its entry back, no task has a password, and what is refused."""

import pickle
import threading
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest

from etl.database.connecting import Database
from etl.datasets import find
from etl.errors import BusyError, SourceError
from etl.ingestion.ledger import runs
from etl.ingestion.pipeline import tasks
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.executors import secret_environment, without_secrets
from etl.ingestion.pipeline.fetching import MOST_AHEAD, Range, RangesAhead, Waiting
from etl.ingestion.pipeline.tasks import Task, load_task
from etl.ingestion.sources import remote
from etl.ingestion.sources.naming import named
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Piece, hash_of
from etl.settings import RetrySettings
from tests.support.site import Site
from tests.support.stores import s3_replaced
from tests.support.waiting import until
from tests.support.web import web_server

DATA = b'{"vehicle_id":"V1"}\n{"vehicle_id":"V2","plate":17}\n{"vehicle_id":null}'


def _task(site: Site, load: str) -> Task:
    new = runs.NewRun(
        dataset="vehicles",
        source="vehicles.ndjson",
        source_bytes=0,
        definition_hash="0",
        mode="append",
        is_atomic=False,
        is_forced=False,
    )
    with site.connect() as connection:
        request = runs.AttemptRequest(source="vehicles.ndjson", folder="/", options="")
        run = runs.start(connection, new, request)
    context = RunContext(
        database=Database(conninfo=site.conninfo),
        dataset=find("vehicles", site.folder / "config"),
        run=run,
        source="vehicles.ndjson",
        mode="append",
        failed_dir=site.store,
        decoder="auto",
        retries=RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001),
    )
    site.store.mkdir(mode=0o700, exist_ok=True)
    piece = Piece(offset=0, count=3, first_record=1, parts=(DATA,), shape="lines", blocks=((0, len(DATA)),))
    return Task(context=context, piece=piece, place=None, length=len(DATA), hash=hash_of(DATA), load=load)


def test_a_repeated_task_gives_its_entry_back(site: Site) -> None:
    """A worker that dies after its commit leaves its task to another one, which loads nothing and fails nothing."""
    task = _task(site, "first")
    first = load_task(task)
    tasks.release("first")
    again = load_task(replace(task, load="second"))
    tasks.release("second")
    assert (first.error, again.error) == (None, None)
    assert first.entry is not None
    assert again.entry is not None
    assert first.entry.rejected == 1
    for name in ("loaded", "rejected", "failed", "rows", "unchanged", "deleted"):
        assert getattr(again.entry, name) == getattr(first.entry, name), name
    assert site.value("select count(*) from logistics.vehicles") == 2


@pytest.mark.parametrize("change", ["other bytes", "other attempt"])
def test_another_task_at_the_same_place_is_no_repeated_one(site: Site, change: str) -> None:
    """Only the attempt that entered a batch, with the same bytes, gets its entry."""
    task = _task(site, "one")
    assert load_task(task).error is None
    if change == "other bytes":
        other = DATA.replace(b"V1", b"V3")
        changed = replace(task, piece=replace(task.piece, parts=(other,)), hash=hash_of(other))
    else:
        with site.connect() as connection:
            connection.execute("update etl.separate_batches set attempt = 7")
        changed = task
    found = load_task(changed)
    tasks.release("one")
    assert isinstance(found.error, BusyError)


def test_a_load_leaves_no_session_in_its_workers(site: Site) -> None:
    """A worker that outlives a load keeps neither a session nor a lock of it, and two loads do not touch each other."""
    first, second = _task(site, "first"), _task(site, "second")
    assert load_task(first).error is None
    assert load_task(second).error is None
    held: LiteralString = (
        "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    assert site.value(held) == 4
    tasks.release("first")
    until(lambda: site.value(held) == 2, "the server to see the end of one session")
    tasks.release("second")
    site.wait_for_locks()


def test_a_worker_without_tasks_gives_up_its_sessions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may have ended without a word: its worker gives up the session, and opens one for the next task."""
    monkeypatch.setattr(tasks, "IDLE_SECONDS", 0.01)
    task = _task(site, "idle")
    assert load_task(task).error is None
    site.wait_for_locks()
    assert load_task(task).error is None
    tasks.release("idle")


def test_a_worker_begins_no_task_after_the_end(site: Site) -> None:
    """After the end of the submitting, a task that no worker has begun says so, and its waits end."""
    task = _task(site, "ended")
    tasks.end_submitting("ended", at_once=True)
    done = load_task(task)
    assert (done.is_begun, done.entry, done.error) == (False, None, None)
    stopping: Any = tasks._work_of("ended").stopping
    assert isinstance(stopping, threading.Event)
    assert stopping.is_set()
    tasks.release("ended")
    assert site.value("select count(*) from etl.batches") == 0


def test_no_task_has_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task names the server as this process reaches it; the password is for workers of this machine only."""
    monkeypatch.setenv("PGHOST", "db.example.com")
    monkeypatch.setenv("PGPASSWORD", "from the environment")
    database = Database(conninfo="postgresql://me:s3cret@/name?sslpassword=other")
    sent = without_secrets(database)
    for secret in (b"s3cret", b"from the environment", b"other"):
        assert secret not in pickle.dumps(sent)
    found = psycopg.conninfo.conninfo_to_dict(sent.conninfo)
    assert (found["host"], found["user"], found["dbname"]) == ("db.example.com", "me", "name")
    assert secret_environment(database) == {"PGPASSWORD": "s3cret"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "dask:ftp://host"), "--executor expects"),
        (("--executor", "spark"), "--executor expects"),
        (("--executor", "dask:local", "--follow"), "--follow loads each record"),
        (("--executor", "dask:tcp://127.0.0.1:1", "--database", "embedded:"), "the embedded server takes connections"),
    ],
)
def test_an_executor_that_cannot_load_is_refused(site: Site, options: tuple[str, ...], message: str) -> None:
    """Such a command ends with exit code 2 and the reason, before anything is loaded."""
    (site.folder / "vehicles.ndjson").write_bytes(DATA)
    database = options[options.index("--database") :] if "--database" in options else ()
    words = [word for word in options if word not in database]
    env = {"ETL_DATABASE_URL": database[1]} if database else None
    ended = site.run("load", "vehicles", "vehicles.ndjson", *words, env=env)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr


def test_a_worker_reads_its_range_of_an_object(site: Site) -> None:
    """A task with a URL has no bytes; an object that has others now, or is gone, is a fault of the source."""
    task = _task(site, "object")
    with s3_replaced("exports") as s3:
        s3.put_object(Bucket="exports", Key="a.ndjson", Body=b"xx" + DATA + b"yy")
        url = "s3://exports/a.ndjson"
        piece = replace(task.piece, offset=2, parts=())
        sent = replace(task, piece=piece, place=url)
        with opened(named(url)[0]) as stream:
            assert (stream.public_url, stream.plain_path) == (url, None)
        first = load_task(sent)
        assert first.error is None
        assert first.entry is not None
        assert (first.entry.loaded, first.entry.rejected) == (2, 1)
        s3.put_object(Bucket="exports", Key="a.ndjson", Body=b"zz" + DATA.lower() + b"yy")
        changed = load_task(sent)
        s3.delete_object(Bucket="exports", Key="a.ndjson")
        gone = load_task(sent)
    tasks.release("object")
    assert isinstance(changed.error, SourceError)
    assert "changed while it was read" in str(changed.error)
    assert isinstance(gone.error, SourceError)


def test_a_worker_reads_its_range_of_a_file_over_http(site: Site) -> None:
    """It asks a server for these bytes only; a server that sends no ranges is a fault of the source."""
    task = _task(site, "http")
    with web_server() as web:
        web.has_ranges = True
        web.content = b"xx" + DATA + b"yy"
        url = f"{web.url}/a.ndjson"
        sent = replace(task, piece=replace(task.piece, offset=2, parts=()), place=url)
        with opened(named(url)[0]) as stream:
            assert stream.public_url == url
        assert remote.size_by_range(url) == len(web.content)
        first = load_task(sent)
        assert web.ranges == ["bytes=0-0", f"bytes=2-{len(DATA) + 1}"]
        web.content = web.content.lower()
        changed = load_task(sent)
        web.has_ranges = False
        assert remote.size_by_range(url) is None
        without = load_task(sent)
    gone = remote.size_by_range(url)
    tasks.release("http")
    assert first.error is None
    assert first.entry is not None
    assert (first.entry.loaded, first.entry.rejected) == (2, 1)
    assert "changed while it was read" in str(changed.error)
    assert "the server sends no ranges" in str(without.error)
    assert gone is None


def test_a_worker_reads_the_next_range_ahead(site: Site) -> None:
    """The range of the next task is read before its task begins, once; a range of another worker is kept no longer."""
    task = _task(site, "ahead")
    with web_server() as web:
        web.has_ranges = True
        web.content = b"xx" + DATA + b"yy"
        sent = replace(task, piece=replace(task.piece, offset=2, parts=()), place=f"{web.url}/a.ndjson")
        wanted = Range(f"{web.url}/a.ndjson", 2, len(DATA))
        tasks.fetch_ahead("ahead", wanted, task.context.retries)
        until(lambda: len(web.ranges) == 1, "the range to be read")
        tasks.fetch_ahead("ahead", wanted, task.context.retries)
        done = load_task(sent)
        assert len(web.ranges) == 1
        tasks.fetch_ahead("ahead", wanted, task.context.retries)
        until(lambda: len(web.ranges) == 2, "the range to be read again")
        tasks.drop_ahead("ahead", wanted)
        assert tasks._work_of("ahead").ahead.take(wanted, task.context.retries) == DATA
        assert len(web.ranges) == 3
    tasks.release("ahead")
    assert done.error is None
    assert done.entry is not None
    assert (done.entry.loaded, done.entry.rejected) == (2, 1)
    assert 0 < done.waited < done.seconds


def test_a_worker_reads_few_ranges_ahead() -> None:
    """What is read and not taken is bounded, however many tasks a worker has; a fault comes with its task."""
    retries = RetrySettings(attempts=1, base_seconds=0.001, cap_seconds=0.001)
    with web_server() as web:
        web.has_ranges = True
        web.content = DATA
        ahead = RangesAhead()
        ranges = [Range(f"{web.url}/a.ndjson", at, 2) for at in range(5)]
        for each in ranges:
            ahead.begin(each, retries)
        until(lambda: len(web.ranges) == MOST_AHEAD, "the ranges to be read")
        assert [ahead.take(each, retries) for each in ranges] == [DATA[at : at + 2] for at in range(5)]
        assert len(web.ranges) == len(ranges)
        web.has_ranges = False
        ahead.begin(ranges[0], retries)
        with pytest.raises(SourceError, match="sends no ranges"):
            ahead.take(ranges[0], retries)


@pytest.mark.parametrize(("waited", "reads"), [(0.1, True), (0.5, False)])
def test_workers_that_wait_for_the_source_get_its_bytes(waited: float, *, reads: bool) -> None:
    """The command sends the bytes once workers wait too long for their ranges; the first pieces say nothing."""
    waiting = Waiting()
    for number in range(8):
        waiting.note_command(0.0, 0.1 * number, 2)
    for _ in range(2):
        waiting.note(0.9, 1.0)
        assert waiting.is_short(2)
    for _ in range(4):
        assert waiting.is_short(2)
        waiting.note(waited, 1.0)
    assert waiting.is_short(2) is reads
    waiting.note(0.0, 1.0)
    assert waiting.is_short(2) is reads


def test_workers_read_a_source_for_which_the_command_hardly_waits() -> None:
    """A source that keeps the command waiting is not asked for twice; the first pieces say nothing."""
    waiting = Waiting()
    waited, now = 0.0, 0.0

    def submitted(count: int, share: float) -> bool:
        nonlocal waited, now
        for _ in range(count):
            waited, now = waited + share, now + 1.0
            waiting.note_command(waited, now, 2)
        return waiting.is_short(2)

    assert not submitted(4, 1.0)
    assert not submitted(4, 0.5)
    assert not submitted(3, 0.0)
    assert submitted(1, 0.0)
    assert submitted(8, 1.0)


@pytest.mark.parametrize("address", ["http://user:secret@{}/a.ndjson", "http://{}/a.ndjson?signature=secret"])
def test_no_task_has_an_address_with_a_secret(address: str) -> None:
    """A source whose address has a user or a query is not read by workers: the command sends them its bytes."""
    with web_server() as web:
        web.content = DATA
        with opened(named(address.format(web.url.removeprefix("http://")))[0]) as stream:
            assert (stream.public_url, stream.is_repeatable) == (None, True)
