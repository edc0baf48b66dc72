"""The commands as functions of a program in Python."""

import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

import etl
from etl.cli.failed import replay_command
from etl.cli.load import command as load_command
from etl.errors import EtlError, ExitCode
from etl.ingestion.ledger import locks
from tests.support.checkout import ROOT
from tests.support.faults import Connection

pytestmark = pytest.mark.usefixtures("logging_restored")


def test_a_program_loads_as_the_command_does(
    database_url: str, postgresql: Connection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Results are frozen values, errors are classes of the tool, nothing is printed, and any thread may call."""
    fleet = tmp_path / "fleet.json"
    fleet.write_text(json.dumps([{"vehicle_id": "V1"}, {"vehicle_id": None}]))
    found: list[etl.Loaded] = []
    failed_dir = tmp_path / "failed"

    def work() -> None:
        found.extend(
            etl.load("vehicles", fleet, database=database_url, failed_dir=failed_dir, max_rejected=1, dry_run=dry_run)
            for dry_run in (True, False)
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    judged, loaded = found
    assert (judged.exit_code, judged.sources[0].dry_run, judged.sources[0].records.withheld) == (1, True, 1)
    assert (loaded.exit_code, loaded.sources[0].status) == (1, "loaded_with_rejects")
    assert (loaded.sources[0].records.loaded, loaded.sources[0].records.rejected) == (1, 1)
    assert "data_quality" in {each.aggregate for each in loaded.precalculated}
    assert {each.aggregate for each in etl.precalculate("vehicle_days", database=database_url)} == {"vehicle_days"}
    assert postgresql.execute("select vehicle_id from logistics.vehicles").fetchall() == [("V1",)]
    with pytest.raises(etl.EtlError, match=r"cannot read missing\.json") as caught:
        etl.load("vehicles", "missing.json", database=database_url, failed_dir=failed_dir)
    assert caught.value.exit_code == 3
    with pytest.raises(etl.EtlError, match="no dataset is called") as caught:
        etl.load("vehicle", fleet, database=database_url)
    assert (caught.value.exit_code, caught.value.hint) == (2, "did you mean vehicles?")
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_costs_nothing() -> None:
    """`import etl` imports no library; functions are imported at their first use, and unknown names are errors."""
    program = "import sys, etl; print({'psycopg', 'click', 'structlog', 'ijson'} & set(sys.modules)); etl.nothing"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"
    assert "module 'etl' has no attribute 'nothing'" in done.stderr
    assert {"load", "replay", "precalculate"} <= set(dir(etl))
    assert (ROOT / "etl" / "py.typed").is_file()


def test_the_functions_are_listed_before_they_are_imported() -> None:
    """`dir(etl)` lists every public name right after the import."""
    program = "import sys, etl; print({*etl.__all__} - {*dir(etl)}, 'etl.library' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"


def test_a_program_has_the_options_of_the_command() -> None:
    """Every option of the command, except that for its output, is an argument of the function."""
    options = {parameter.name for parameter in load_command.params}
    arguments = set(inspect.signature(etl.load).parameters)
    assert {str(name).replace("no_precalculate", "precalculate") for name in options} - arguments == {"as_json"}


def test_a_program_is_refused_what_the_command_refuses() -> None:
    """A word or number that an option does not allow is exit code 2 before anything is read."""
    arguments = set(inspect.signature(etl.load).parameters)
    wrong: dict[str, Any] = {}
    for parameter in load_command.params:
        if isinstance(parameter.type, click.Choice):
            wrong[str(parameter.name)] = "nothing"
        elif isinstance(parameter.type, click.IntRange | click.FloatRange):
            wrong[str(parameter.name)] = int(parameter.type.min or 0) - 1
    for name in sorted(set(wrong) & arguments):
        with pytest.raises(etl.EtlError, match=f"^{name}: ") as caught:
            etl.load("vehicles", "missing.json", database="nowhere", **{name: wrong[name]})
        assert caught.value.exit_code == 2
    assert len(set(wrong) & arguments) == 16


def _refuse(folder: Path, database_url: str, name: str = "fleet.json") -> etl.Loaded:
    """Load two vehicles; one of them is refused."""
    source = folder / name
    source.write_text(json.dumps([{"vehicle_id": f"{name}-1"}, {"vehicle_id": f"{name}-2", "capacity_kg": -1}]))
    options: Any = {"database": database_url, "failed_dir": folder / "failed", "precalculate": False}
    return etl.load("vehicles", source, max_rejected="100%", **options)


def _correct(folder: Path) -> None:
    """Correct all records of the failed store."""
    for path in (folder / "failed").glob("*/*/*.ndjson"):
        path.write_text(path.read_text().replace("-1}", "1}"))


def test_a_program_replays_as_the_command_does(
    database_url: str, postgresql: Connection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A replay accepts ids, a run, a dataset or all, returns a frozen result for each file, and prints nothing."""
    where: Any = {"database": database_url, "failed_dir": tmp_path / "failed"}
    with pytest.raises(etl.EtlError, match="nothing is named to replay") as caught:
        etl.replay(**where)
    assert (caught.value.exit_code, caught.value.hint) == (2, "give ids, run, dataset or all=True")
    with pytest.raises(etl.EtlError, match=r"^retry_attempts: ") as caught:
        etl.replay(all=True, retry_attempts=0, **where)
    assert caught.value.exit_code == 2
    first, second = (_refuse(tmp_path, database_url, name) for name in ("one.json", "two.json"))
    run = first.sources[0].run
    assert run is not None
    again = etl.replay(run=run, precalculate=False, **where)
    assert (again.exit_code, again.precalculated) == (1, ())
    [result] = again.replayed
    assert (result.id, result.run, result.dataset) == (f"{run}-1-r", run, "vehicles")
    assert (result.loaded, result.rejected, result.failed, result.stored) == (0, 1, 0, (f"{run}-1-rr",))
    _correct(tmp_path)
    assert etl.replay(dataset="shipments", **where).replayed == ()
    done = etl.replay(f"{run}-1-rr", **where)
    assert (done.exit_code, [each.loaded for each in done.replayed]) == (0, [1])
    assert "data_quality" in {each.aggregate for each in done.precalculated}
    assert etl.replay(f"{run}-1-rr", **where).replayed == ()  # It is no longer pending.
    [other] = etl.replay(all=True, retry_attempts=1, **where).replayed
    assert (other.run, other.loaded) == (second.sources[0].run, 1)
    with pytest.raises(etl.EtlError, match="nothing in the failed store is called nothing") as caught:
        etl.replay("nothing", **where)
    assert caught.value.exit_code == 2
    assert postgresql.execute("select count(*) from logistics.vehicles").fetchone() == (4,)
    assert capfd.readouterr() == ("", "")


def test_a_replay_of_a_busy_source_raises_after_the_others(
    database_url: str, postgresql: Connection, tmp_path: Path
) -> None:
    """A source that a load holds is an error with exit code 6; the files of other sources are replayed."""
    for name in ("one.json", "two.json"):
        _refuse(tmp_path, database_url, name)
    _correct(tmp_path)
    run = postgresql.execute("select run from etl.runs order by number").fetchone()
    assert run is not None
    with psycopg.connect(database_url, autocommit=True, application_name="etl:another") as connection:
        locks.hold_run(connection, run[0])
        with pytest.raises(etl.EtlError, match="this source is held by etl:another since") as caught:
            etl.replay(all=True, database=database_url, failed_dir=tmp_path / "failed")
    assert caught.value.exit_code == 6
    states = postgresql.execute("select state from etl.failures order by created_at").fetchall()
    assert states == [("pending",), ("replayed",)]


def test_a_program_has_the_options_of_a_replay() -> None:
    """Every option of the command, except that for its output, is an argument of the function."""
    options = {str(parameter.name) for parameter in replay_command.params}
    same = {"no_precalculate": "precalculate", "is_all": "all"}
    arguments = set(inspect.signature(etl.replay).parameters)
    assert {same.get(name, name) for name in options} - arguments == {"as_json"}


CALLS: dict[str, Callable[[Any], object]] = {
    "dataset": lambda wrong: etl.load(wrong, "a.json"),
    "database": lambda wrong: etl.load("vehicles", "a.json", database=wrong),
    "config_dir": lambda wrong: etl.load("vehicles", "a.json", config_dir=wrong),
    "failed_dir": lambda wrong: etl.load("vehicles", "a.json", failed_dir=wrong),
    "records": lambda wrong: etl.load("vehicles", "a.json", records=wrong),
    "encoding": lambda wrong: etl.load("vehicles", "a.json", encoding=wrong),
    "mode": lambda wrong: etl.load("vehicles", "a.json", mode=wrong),
    "batch_rows": lambda wrong: etl.load("vehicles", "a.json", batch_rows=wrong),
    "metrics_file": lambda wrong: etl.load("vehicles", "a.json", metrics_file=wrong),
    "timeout": lambda wrong: etl.load("vehicles", "a.json", timeout=wrong),
    "progress": lambda wrong: etl.load("vehicles", "a.json", progress=wrong),
    "source_name": lambda wrong: etl.load("vehicles", [], source_name=wrong),
    "id": etl.replay,
    "run": lambda wrong: etl.replay(run=wrong),
    "dataset of a replay": lambda wrong: etl.replay(dataset=wrong),
    "aggregate": etl.precalculate,
    "definition": etl.create,
    "name": lambda wrong: etl.infer("a.json", name=wrong),
    "address": etl.connect,
    "run to undo": etl.undo,
    "run of failures": lambda wrong: etl.failed(run=wrong),
    "status": lambda wrong: etl.runs(status=wrong),
}


@pytest.mark.parametrize("wrong", [[{"a": "SECRET"}], {"a": "SECRET"}, b"SECRET", ["SECRET"]], ids=repr)
@pytest.mark.parametrize("argument", CALLS)
def test_an_argument_of_another_type_is_not_quoted(argument: str, wrong: object) -> None:
    """A record in the place of an argument is wrong usage, and its content is not in the message."""
    with pytest.raises(EtlError) as caught:
        CALLS[argument](wrong)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "SECRET" not in f"{caught.value} {caught.value.hint}"
