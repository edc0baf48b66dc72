"""Every function for programs in Python, as a type checker and a notebook see it."""

import inspect
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import pytest
import structlog

import etl
from etl.errors import UsageError
from tests.support.checkout import ROOT
from tests.support.faults import Connection

pytestmark = pytest.mark.usefixtures("logging_restored")

RECORDS = [{"parcel_id": "P1", "kg": 2}, {"parcel_id": "<b>P2</b>", "kg": 3}]


@pytest.fixture
def database(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> etl.Connection:
    """Give a connection of a program in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return etl.connect(database_url)


def test_a_connection_has_the_way_from_records_to_a_corrected_table(
    database: etl.Connection, postgresql: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    """Infer, create, load, look, replay, take back: all typed, none of them prints."""
    proposed = etl.infer(RECORDS, name="parcels", output=Path("config/datasets/parcels.toml"))
    assert_type(proposed, etl.Proposed)
    assert (proposed.dataset.name, proposed.sample.records, proposed.path) == (
        "parcels",
        2,
        Path("config/datasets/parcels.toml"),
    )
    assert Path("config/datasets/parcels.toml").read_text(encoding="utf-8").strip() == proposed.text.strip()
    assert_type(database.create("parcels"), etl.Created)
    assert database.create("parcels").tables == ("logistics.parcels",)
    loaded = database.load("parcels", [*RECORDS, {"parcel_id": "P3", "kg": "SECRET"}], max_rejected="50%")
    assert_type(loaded, etl.Loaded)
    assert (loaded.exit_code, loaded.sources[0].records.loaded) == (1, 2)
    [file] = database.failed(run="latest")
    assert_type(file, etl.FailedFile)
    [record] = file.records
    assert_type(record, etl.FailedRecord)
    assert (record.record, record.column, record.key, record.text) == (3, "kg", None, None)
    assert "SECRET" not in repr(file)
    assert database.failed(content=True)[0].records[0].text == '{"parcel_id":"P3","kg":"SECRET"}'
    path = Path(file.path)
    path.write_text(path.read_text(encoding="utf-8").replace('"SECRET"', "4"), encoding="utf-8")
    replays = database.replay(all=True)
    assert_type(replays, etl.Replays)
    assert (replays.exit_code, replays.replayed[0].loaded, database.failed()) == (0, 1, ())
    assert [each.state for each in database.failed(all=True)] == ["replayed"]
    assert_type(database.precalculate("data_quality"), etl.Precalculated)
    [run] = database.runs(dataset="parcels", status="loaded", since=datetime.now(UTC) - timedelta(days=1))
    assert run.records == 3
    would = database.undo(run.run, dry_run=True)
    assert_type(would, etl.Undone)
    assert [(each.table, each.rows_deleted) for each in would.result.tables] == [("logistics.parcels", 3)]
    assert database.undo("latest", delete_rows=True).result.status == "undone"
    assert postgresql.execute("select count(*) from logistics.parcels").fetchone() == (0,)
    assert capfd.readouterr() == ("", "")


def test_the_functions_of_the_package_are_the_methods_of_a_connection(database: etl.Connection) -> None:
    """They differ by the arguments that a connection has."""
    for name in ("load", "replay", "precalculate", "create", "failed", "runs", "undo"):
        function, method = getattr(etl, name), getattr(database, name)
        arguments = set(inspect.signature(function).parameters) - {"database", "config_dir"}
        assert set(inspect.signature(method).parameters) == arguments, name
    assert str(inspect.signature(database.load)).startswith("(dataset: str, *sources: ")


def test_a_connection_is_closed_once_and_says_so(database_url: str) -> None:
    """It has no password in its text, and refuses to work afterwards."""
    with etl.connect(database_url) as database:
        assert database.runs() == ()
        assert database.name in repr(database)
        assert database.conninfo == database_url
    database.close()
    assert "closed" in repr(database)
    with pytest.raises(etl.EtlError, match="the connection is closed"):
        database.runs()


def test_a_wrong_address_is_an_error_at_once(tmp_path: Path) -> None:
    """An empty one, too: it is not the address that the environment has. What only looks makes no database."""
    with pytest.raises(etl.EtlError, match="the database has no address"):
        etl.connect("")
    with pytest.raises(etl.EtlError, match="cannot reach the database") as caught:
        etl.connect(f"postgresql://me:SECRET@/none?host={tmp_path}")
    assert "SECRET" not in str(caught.value)
    for look in (etl.failed, etl.runs):
        with pytest.raises(etl.EtlError) as caught:
            look(database=f"embedded:{tmp_path / 'none'}")
        assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_embedded_server_runs_as_long_as_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the program changes its folder, and in another thread."""
    monkeypatch.chdir(tmp_path)
    pid = tmp_path / ".etl" / "postgres" / "data" / "postmaster.pid"
    with etl.connect("embedded:") as database:
        first = pid.read_text()
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert database.load("vehicles", [{"vehicle_id": "V1"}]).exit_code == 0
        assert pid.read_text() == first
    assert not pid.exists()
    assert not (tmp_path / "other" / ".etl").exists()


@pytest.mark.parametrize("run", [None, "none"])
def test_what_is_not_there_is_empty(database: etl.Connection, run: str | None) -> None:
    """Nothing waits, and there is no run; `latest` names one, and there is none to name."""
    assert (database.failed(run=run), database.runs(run=run)) == ((), ())
    for look in (database.failed, database.runs):
        with pytest.raises(UsageError, match="there is no run yet"):
            look(run="latest")


def test_a_file_of_the_failed_store_that_is_missing_is_listed(database: etl.Connection) -> None:
    """The others are listed, too, and the ledger knows how many records it had."""
    for name in ("A", "B"):
        database.load("vehicles", [{"vehicle_id": name, "capacity_kg": -1}, {"vehicle_id": name}])
    first, second = database.failed()
    path = Path(first.path)
    path.unlink()
    path.with_suffix(".json").unlink()
    gone, kept = database.failed()
    assert (gone.count, gone.records, kept) == (1, (), second)
    assert gone.missing is not None
    assert gone.missing in gone_html(database)


def gone_html(database: etl.Connection) -> str:
    """Return what a notebook shows of the failed store."""
    return database.failed()._repr_html_()


def test_a_notebook_shows_escaped_tables(database: etl.Connection) -> None:
    """Names of sources and texts of records come from elsewhere."""
    loaded = database.load(
        "vehicles", [{"vehicle_id": "<i>", "capacity_kg": -1}, {"vehicle_id": "V"}], source_name="<script>"
    )
    results: list[Any] = [
        loaded,
        database.failed(content=True),
        database.runs(),
        database.undo("latest", dry_run=True),
        database.precalculate("vehicle_days"),
        database.create("vehicles"),
        database.replay(all=True),
        etl.infer([{"<b>": 1}], name="parcels"),
    ]
    for result in results:
        shown = result._repr_html_()
        assert shown.count("<table>") + shown.count("<pre>") == 1
        assert not any(tag in shown for tag in ("<script>", "<i>", "<b>")), shown
    assert "&lt;script&gt;" in loaded._repr_html_()
    assert "&lt;i&gt;" in results[1]._repr_html_()


def test_a_proposal_needs_a_name(tmp_path: Path) -> None:
    """Records have none; a file has."""
    with pytest.raises(etl.EtlError, match="the source has no name") as caught:
        etl.infer(RECORDS)
    assert caught.value.hint == 'give the dataset a name, as in name="parcels"'
    with pytest.raises(etl.EtlError, match=r"^sample: expected a number of records"):
        etl.infer(RECORDS, name="parcels", sample=0)
    feed = tmp_path / "feed.json"
    feed.write_text('{"a": {"parcels": [{"parcel_id": 1}, {"parcel_id": 2}]}}')
    proposed = etl.infer(feed)
    assert (proposed.dataset.name, proposed.dataset.records, proposed.path) == ("feed", "a.parcels.item", None)


def test_dir_shows_the_functions_and_nothing_else() -> None:
    """As a notebook completes them."""
    shown = [name for name in dir(etl) if not name.startswith("_")]
    assert {"load", "infer", "create", "replay", "failed", "connect", "runs", "undo", "precalculate"} <= set(shown)
    assert set(shown) == set(etl.__all__) - {"__version__"}
    assert all(inspect.getdoc(getattr(etl, name)) for name in shown)


def test_the_logging_of_the_program_stays_as_it_is(database: etl.Connection, caplog: pytest.LogCaptureFixture) -> None:
    """Events go to the logger `etl`; a logger of structlog that is not ours prints as before."""
    with caplog.at_level(logging.INFO, logger="etl"):
        database.load("vehicles", [{"vehicle_id": "V1"}])
    ended = [record for record in caplog.records if record.getMessage() == "source_ended"]
    assert [vars(record)["status"] for record in ended] == ["loaded"]
    program = (
        "import structlog, etl\n"
        "try: etl.load('vehicles', [], database='nonsense:')\n"
        "except etl.EtlError: structlog.get_logger('mine').info('still here', a=1)\n"
        "structlog.get_logger('etl.mine').info('quiet')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "still here" in done.stdout
    assert "quiet" not in done.stdout + done.stderr
    assert isinstance(structlog.get_config()["processors"], list)
