"""What a program in Python can load: paths, file objects and records; and what ends such a load."""

import asyncio
import bz2
import gzip
import io
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import etl
from tests.support.faults import Connection
from tests.support.site import Site
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("logging_restored")

Load = Callable[..., etl.Loaded]


@pytest.fixture
def load(parcels: Site) -> Load:
    """Load into the dataset `parcels`."""

    def function(*sources: Any, **options: Any) -> etl.Loaded:
        return etl.load(
            "parcels",
            *sources,
            database=parcels.conninfo,
            config_dir=parcels.folder / "config",
            failed_dir=parcels.store,
            precalculate=False,
            **options,
        )

    return function


def ids_of(parcels: Site) -> list[str]:
    """Return the parcels that are loaded."""
    return sorted(name for (name,) in parcels.connection.execute("select parcel_id from logistics.parcels"))


def made(count: int, after: Callable[[], None] | None = None) -> Iterator[dict[str, str]]:
    """Yield parcels, and do something after the last one."""
    yield from ({"parcel_id": f"P{number}"} for number in range(count))
    if after is not None:
        after()


LINES = b'{"parcel_id": "P1"}\n{"parcel_id": "P2"}\n'
ARRAY = b'[{"parcel_id": "P1"}, {"parcel_id": "P2"}]'


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(LINES),
        io.BytesIO(ARRAY),
        io.BytesIO(gzip.compress(LINES)),
        io.BytesIO(bz2.compress(ARRAY)),
        io.BytesIO(ARRAY.decode().encode("utf-16")),
        io.StringIO(ARRAY.decode()),
    ],
    ids=["lines", "array", "gzip", "bzip2", "utf-16", "text"],
)
def test_a_file_object_is_read_as_standard_input_is(file: Any, load: Load, parcels: Site) -> None:
    """Its format is seen in its content, it stays open, and a second load knows it."""
    [summary] = load(file).sources
    assert (summary.status, summary.source, summary.records.loaded) == ("loaded", "-", 2)
    assert ids_of(parcels) == ["P1", "P2"]
    file.seek(0)
    assert load(file).sources[0].status == "already_loaded"
    assert not file.closed


def test_a_file_object_has_its_own_name_or_the_given_one(load: Load, parcels: Site) -> None:
    """The ledger has the path of an open file; another name is given by the program."""
    with (parcels.folder / "feed.json").open("rb") as file:
        assert load(file).sources[0].source == str(parcels.folder / "feed.json")
    assert load(io.BytesIO(LINES), source_name="feed of the depot").sources[0].source == "feed of the depot"
    with pytest.raises(etl.EtlError, match="source_name names one file object"):
        load(parcels.folder / "feed.json", source_name="another")


def test_records_are_one_source_however_they_come(load: Load, parcels: Site) -> None:
    """A list, a generator and the same records as lines are the same source; one more record is its continuation."""
    [summary] = load(made(3), source_name="api").sources
    assert (summary.status, summary.source, summary.records.loaded) == ("loaded", "api", 3)
    assert load(list(made(3))).sources[0].status == "already_loaded"
    lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in made(3))
    assert load(io.StringIO(lines)).sources[0].status == "already_loaded"
    grown = load(made(4)).sources[0].records
    assert (grown.loaded, grown.skipped) == (1, 3)
    assert ids_of(parcels) == ["P0", "P1", "P2", "P3"]


def test_records_are_records_whatever_the_definition_says(database_url: str, site: Site) -> None:
    """The path of a definition is for documents; one record with an array in it is one record."""
    site.define(
        'name = "boxes"\nmode = "append"\nrecords = "data.item"\n[[table]]\nname = "logistics.boxes"\n'
        '[table.columns]\nbox = "text"\nweight = "numeric"\n'
    )
    where: Any = {"database": database_url, "config_dir": site.folder / "config", "failed_dir": site.store}
    one = [{"box": "B1", "weight": Decimal("1.10"), "items": [{"a": 1}, {"a": 2}]}]
    assert etl.load("boxes", one, **where).sources[0].records.loaded == 1
    assert etl.load("boxes", [], **where).sources[0].status == "loaded"
    assert site.connection.execute("select box, weight::text from logistics.boxes").fetchall() == [("B1", "1.10")]


def test_a_fault_of_a_record_leaves_what_came_before_it(load: Load, parcels: Site) -> None:
    """Exit code 3 names the number of the record; after its correction the same call loads the rest."""
    records: list[dict[str, Any]] = [*made(5), {"parcel_id": float("nan")}, {"parcel_id": "P6"}]
    with pytest.raises(etl.EtlError, match=r"^record 6 holds NaN or an infinity") as caught:
        load(records)
    assert caught.value.exit_code == 3
    records[5] = {"parcel_id": "P5"}
    rest = load(records).sources[0].records
    assert (rest.skipped, rest.loaded) == (5, 2)
    assert ids_of(parcels) == [f"P{number}" for number in range(7)]


class MineError(OSError):
    """An exception of the program; the tool has a meaning for errors of this class."""


def test_an_exception_of_a_generator_reaches_the_caller_as_itself(load: Load, parcels: Site) -> None:
    """What came before it is loaded, other sources are tried, and the same call continues."""
    error = MineError("mine")

    def fail() -> None:
        raise error

    with pytest.raises(MineError) as caught:
        load(made(7, fail), [{"parcel_id": "other"}])
    assert caught.value is error
    assert ids_of(parcels) == [*(f"P{number}" for number in range(7)), "other"]
    runs = parcels.connection.execute(
        "select r.finished_at is null, a.exit_code from etl.runs r join etl.attempts a using (run) order by r.number"
    ).fetchall()
    assert runs == [(True, 3), (False, 0)]
    rest = load(made(9)).sources[0].records
    assert (rest.skipped, rest.loaded) == (7, 2)


def test_an_atomic_load_of_a_generator_that_fails_shows_nothing(load: Load, parcels: Site) -> None:
    """All of its records are loaded, or none."""

    def fail() -> None:
        raise MineError("mine")

    with pytest.raises(MineError):
        load(made(7, fail), atomic=True)
    assert ids_of(parcels) == []
    assert load(made(7), atomic=True).sources[0].status == "loaded"
    assert len(ids_of(parcels)) == 7


def test_a_progress_function_sees_numbers_and_may_end_the_load(
    load: Load, parcels: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception reaches the caller as itself; the run is closed, no further source is begun, a call continues."""
    monkeypatch.setattr("etl.library.progress._SECONDS", 0.0)
    error = MineError("mine")
    seen: list[etl.Progress] = []

    def fail(progress: etl.Progress) -> None:
        seen.append(progress)
        if progress.records:
            raise error

    with pytest.raises(MineError) as caught:
        load(made(4), [{"parcel_id": "other"}], progress=fail, batch_rows=1)
    assert caught.value is error
    begin, later = seen
    assert (begin.records, begin.bytes, begin.size, begin.source) == (0, 0, None, "-")
    assert (later.records, later.seconds > begin.seconds) == (1, True)
    codes = parcels.connection.execute("select exit_code from etl.attempts").fetchall()
    assert codes == [(130,)]
    seen.clear()
    summary = load(made(4), progress=seen.append).sources[0]
    assert (summary.status, summary.records.skipped) == ("loaded", 1)
    assert [progress.records for progress in seen] == [0, 1, 4, 4]
    assert ids_of(parcels) == ["P0", "P1", "P2", "P3"]


def test_a_progress_function_is_called_a_few_times_a_second(load: Load) -> None:
    """However many batches there are; the last call has all records."""
    seen: list[etl.Progress] = []
    load(made(60), progress=seen.append, batch_rows=1)
    assert len(seen) <= 3 + seen[-1].seconds * 4
    assert seen[-1].records == 60


def test_an_exception_of_the_last_progress_call_leaves_the_source_loaded(load: Load, parcels: Site) -> None:
    """The load is done by then."""

    def fail(progress: etl.Progress) -> None:
        if progress.records:
            raise MineError("mine")

    with pytest.raises(MineError):
        load(made(4), progress=fail)
    assert ids_of(parcels) == ["P0", "P1", "P2", "P3"]
    assert load(made(4)).sources[0].status == "already_loaded"


def test_a_timeout_ends_a_load_after_the_batch_in_hand(load: Load, parcels: Site) -> None:
    """With exit code 143, in any thread; the same call continues."""
    begun = time.monotonic()

    def wait() -> None:
        until(lambda: time.monotonic() - begun > 0.3, "the timeout")

    def records() -> Iterator[dict[str, str]]:
        yield from made(5000, wait)
        yield from made(5000)

    found: list[BaseException] = []

    def work() -> None:
        try:
            load(records(), timeout=0.1, batch_rows=1000)
        except etl.EtlError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [error.exit_code for error in found if isinstance(error, etl.EtlError)] == [143]
    assert load(records()).sources[0].status == "loaded"
    assert len(ids_of(parcels)) == 10_000


def test_a_load_writes_metrics(load: Load, parcels: Site) -> None:
    """As the command does, also of an error."""
    metrics = parcels.folder / "etl.prom"
    load(made(3), metrics_file=metrics)
    assert 'etl_last_records{command="load",dataset="parcels",outcome="loaded"} 3.0' in metrics.read_text()
    with pytest.raises(etl.EtlError):
        load("missing.json", metrics_file=metrics)
    assert 'etl_last_exit_code{command="load",dataset="parcels"} 3.0' in metrics.read_text()


def test_an_interrupt_is_an_interrupt(load: Load, parcels: Site) -> None:
    """In the main thread of a notebook, where Python's own handler raises KeyboardInterrupt."""
    # A shell lets the programs that it runs in the background ignore this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load(made(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert parcels.connection.execute("select exit_code from etl.attempts").fetchall() in ([], [(130,)])
    assert load(made(5)).sources[0].status == "loaded"
    assert len(ids_of(parcels)) == 5


def test_a_load_runs_beside_an_event_loop_and_in_other_threads(load: Load, parcels: Site) -> None:
    """One after the other in a running loop, and at once in threads, whose records are one source."""

    async def main() -> list[str]:
        first = load(made(3)).sources[0].status
        second = await asyncio.to_thread(lambda: load(made(3)).sources[0].status)
        return [first, second]

    assert asyncio.run(main()) == ["loaded", "already_loaded"]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append(load([{"parcel_id": name}]).sources[0].status))
        for name in ("A", "B")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["loaded", "loaded"]
    assert ids_of(parcels) == ["A", "B", "P0", "P1", "P2"]


class _Frame:
    """A table of another package, as the protocol for exchanging them knows it."""

    def __dataframe__(self) -> object:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(["column"])


async def _later() -> AsyncIterator[dict[str, str]]:
    yield {"parcel_id": "SECRET"}


class _Asynchronous:
    """A file object of an asynchronous package."""

    async def read(self, size: int = -1) -> bytes:
        """Return bytes, later."""
        return bytes(size)


CLOSED = io.BytesIO()
CLOSED.close()


@pytest.mark.parametrize(
    ("source", "reason", "hint"),
    [
        (_Frame(), "got a value of type _Frame", "give its rows"),
        (_later(), "got a value of type async_generator", "collect the records of an asynchronous iterable first"),
        (_later, "got a value of type function", "call the function"),
        (b'{"parcel_id": "SECRET"}', "got a value of type bytes", "io.BytesIO(data)"),
        (bytearray(b"SECRET"), "got a value of type bytearray", "io.BytesIO(data)"),
        ({"parcel_id": "SECRET"}, "got a value of type dict", "[record]"),
        ('{"parcel_id": "SECRET"}', "got a text that looks like JSON", "io.StringIO(text)"),
        (' [\n{"parcel_id": "SECRET"}]', "got a text that looks like JSON", "io.StringIO(text)"),
        ("[" + '{"parcel_id": "SECRET"},' * 1000 + "]", "got a text that looks like JSON", "io.StringIO(text)"),
        (["SECRET.json"], "got a list of paths or texts", "*paths"),
        ((Path("SECRET.json"),), "got a tuple of paths or texts", "*paths"),
        (iter(["SECRET.json"]), "record 1 is of type str, expected a dict", "*paths"),
        (_Asynchronous(), "the file object is asynchronous", "open()"),
        (CLOSED, "the file object is closed", ""),
        (3, "got a value of type int", ""),
        (None, "got a value of type NoneType", ""),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value and len(value) < 40 else None,
)
def test_what_is_no_source_is_explained(source: Any, reason: str, hint: str, load: Load) -> None:
    """The error says what was given and what to do, and quotes no content."""
    with pytest.raises(etl.EtlError) as caught:
        load(source)
    assert reason in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert "SECRET" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("options", "source", "reason"),
    [
        ({"encoding": "latin-1"}, [{}], "encoding describes bytes"),
        ({"format": "array"}, [{}], "format describes bytes"),
        ({"records": "a.item"}, [{}], "records describes bytes"),
        ({"encoding": "latin-1"}, io.StringIO("[]"), "encoding describes bytes"),
    ],
)
def test_options_for_bytes_contradict_records(options: Any, source: Any, reason: str, load: Load) -> None:
    """A wrong idea is not ignored."""
    with pytest.raises(etl.EtlError, match=reason) as caught:
        load(source, **options)
    assert caught.value.exit_code == 2


def test_records_belong_to_one_dataset(database_url: str) -> None:
    """Nothing says which record is of which dataset."""
    with pytest.raises(etl.EtlError, match="records of a program belong to one dataset, got shipments, vehicles"):
        etl.load("shipments,vehicles", [{}], database=database_url)


def test_a_dry_run_of_records_keeps_nothing(load: Load, parcels: Site) -> None:
    """And it reads a generator to its end."""
    records: Iterable[dict[str, str]] = made(3)
    [summary] = load(records, dry_run=True).sources
    assert (summary.dry_run, summary.records.read) == (True, 3)
    assert list(records) == []
    assert ids_of(parcels) == []


def test_several_processes_load_records(database_url: str, postgresql: Connection, tmp_path: Path) -> None:
    """The generator stays in the process of the program."""
    records = ({"vehicle_id": f"V{number}"} for number in range(2000))
    loaded = etl.load(
        "vehicles", records, database=database_url, workers=2, failed_dir=tmp_path / "failed", precalculate=False
    )
    assert loaded.sources[0].records.loaded == 2000
    assert postgresql.execute("select count(*) from logistics.vehicles").fetchone() == (2000,)
