"""The commands as functions of a program in Python."""

import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest

import etl
from etl.cli.load import command as load_command
from tests.support.checkout import ROOT
from tests.support.faults import Connection

pytestmark = pytest.mark.usefixtures("logging_restored")


def test_a_program_loads_as_the_command_does(
    database_url: str, postgresql: Connection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Results are frozen values, errors are the tool's own, nothing is printed, and any thread may call."""
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
    """`import etl` imports no library; functions are imported when asked for, and unknown names are none."""
    program = "import sys, etl; print({'psycopg', 'click', 'structlog', 'ijson'} & set(sys.modules)); etl.nothing"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n"
    assert "module 'etl' has no attribute 'nothing'" in done.stderr
    assert (ROOT / "etl" / "py.typed").is_file()


def test_a_program_has_the_options_of_the_command() -> None:
    """Whatever the command takes that is no matter of a terminal or a metrics file is an argument of the function."""
    options = {parameter.name for parameter in load_command.params}
    arguments = set(inspect.signature(etl.load).parameters)
    ours = {"as_json", "metrics_file", "retry_attempts", "retry_base_seconds", "retry_cap_seconds"}
    assert {str(name).replace("no_precalculate", "precalculate") for name in options} - arguments == ours


def test_a_program_is_refused_what_the_command_refuses() -> None:
    """A word or a number outside of what an option takes is exit code 2 before anything is looked at."""
    arguments = set(inspect.signature(etl.load).parameters)
    wrong: dict[str, Any] = {}
    for parameter in load_command.params:
        if isinstance(parameter.type, click.Choice):
            wrong[str(parameter.name)] = "nothing"
        elif isinstance(parameter.type, click.IntRange):
            wrong[str(parameter.name)] = int(parameter.type.min or 0) - 1
    for name in sorted(set(wrong) & arguments):
        with pytest.raises(etl.EtlError, match=f"^{name}: ") as caught:
            etl.load("vehicles", "missing.json", database="nowhere", **{name: wrong[name]})
        assert caught.value.exit_code == 2
    assert len(set(wrong) & arguments) == 10
