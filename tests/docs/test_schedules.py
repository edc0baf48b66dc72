"""The schedules that people copy are run, or they are checked against the schemas of their programs."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from etl.errors import EtlError
from tests.support.checkout import MEASURED, ROOT
from tests.support.environments import made
from tests.support.site import Site

SCHEDULES = ROOT / "docs" / "schedules"
PROGRAM = Path(sys.executable).parent / "etl"


def codes(word: str) -> set[int]:
    """Return the exit codes for which the page says this: `tries` again, or `tells` a person."""
    rows = re.findall(r"^\| (\d[\d, ]*) \| (\w+)", (SCHEDULES / "README.md").read_text(), re.MULTILINE)
    return {int(code) for codes, first in rows if first == word for code in codes.split(", ")}


AGAIN, FINAL = codes("tries"), codes("tells")


def test_each_exit_code_has_one_answer() -> None:
    """Every exit code of an error is either retried or reported to a person."""
    known = {kind.exit_code for kind in EtlError.__subclasses__() if kind.__name__ != "InterruptedByUserError"}
    assert AGAIN.isdisjoint(FINAL)
    assert known <= AGAIN | FINAL


def entries() -> list[tuple[list[str], str, str]]:
    """Return the entries of the crontab: five fields of time, the user, and the command for the shell."""
    lines = (SCHEDULES / "crontab").read_text().splitlines()
    found = [line.split(maxsplit=6) for line in lines if re.match(r"[\d*]", line)]
    return [(fields[:5], fields[5], fields[6].replace("\\%", "%")) for fields in found]


def test_the_crontab_is_valid() -> None:
    """Times are in their ranges, no unescaped percent sign ends a command, and the other lines are assignments."""
    largest = (59, 23, 31, 12, 7)
    assert len(entries()) == 4
    for times, user, _ in entries():
        assert user == "etl"
        assert all(text == "*" or int(text) <= most for text, most in zip(times, largest, strict=True))
    for line in (SCHEDULES / "crontab").read_text().splitlines():
        assert re.fullmatch(r"#.*||[A-Z_]+=\S.*|[\d*].*", line), line
        assert line.startswith("#") or not re.search(r"(?<!\\)%", line), line


def test_the_commands_of_the_crontab_are_silent_unless_something_is_wrong(tmp_path: Path, database_url: str) -> None:
    """A command prints exit code and log when records were refused or a file is missing, and otherwise nothing."""
    (tmp_path / "exports" / "shipments").mkdir(parents=True)
    (tmp_path / "exports" / "shipments" / "day.json").write_text(
        '[{"shipment_id": "S1", "created_at": "2026-11-20T08:00:00Z"}, {"shipment_id": "S2", "created_at": "late"}]'
    )
    environment = {"PATH": f"{PROGRAM.parent}:/usr/bin:/bin", "ETL_DATABASE_URL": database_url, "HOME": str(tmp_path)}
    environment |= MEASURED

    def printed(command: str) -> str:
        command = command.replace("/srv/etl", str(tmp_path))
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, capture_output=True, encoding="utf-8", check=False, timeout=60
        )
        return done.stdout + done.stderr

    shipments, again, trips, verified = (command for _, _, command in entries())
    assert again == shipments
    assert "exit code 1\n" in (output := printed(shipments))
    assert "loaded_with_rejects shipments" in output
    assert printed(verified) == ""
    assert "exit code 3\n" in printed(trips)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Return copies of the units that run the program of this environment."""
    for path in SCHEDULES.glob("etl-*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/etl/bin/etl", str(PROGRAM)))
    return sorted(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_understands_the_units(units: list[Path]) -> None:
    """`systemd-analyze verify` finds no unknown key, no wrong value and no missing program."""
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(units) == 3
    assert (done.returncode, [line for line in done.stderr.splitlines() if "etl-" in line]) == (0, [])


def test_systemd_retries_temporary_faults() -> None:
    """The load is restarted only after the codes to retry, the listener after all codes except wrong usage."""
    load, listen = ((SCHEDULES / f"etl-{name}.service").read_text() for name in ("load", "listen"))
    assert prevented(load) == FINAL
    assert prevented(listen) == {2}
    for text in (load, listen):
        assert "\nRestart=on-failure\n" in text
        assert "\nNoNewPrivileges=yes\n" in text
        assert "PASSWORD=" not in text


def prevented(unit: str) -> set[int]:
    """Return the exit codes after which a unit is not restarted."""
    (line,) = re.findall(r"^RestartPreventExitStatus=(.+)$", unit, re.MULTILINE)
    return set(map(int, line.split()))


def test_the_workflow_is_what_its_schema_allows() -> None:
    """The workflow has no unknown key, and its password is a secret."""
    path = SCHEDULES / "github-actions.yml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    job = yaml.safe_load(path.read_text())["jobs"]["load"]
    assert job["env"]["PGPASSWORD"] == "${{ secrets.PGPASSWORD }}"


@pytest.mark.parametrize(
    ("ends", "code", "pauses"),
    [
        ([0], 0, []),
        *(([code], code, []) for code in sorted(FINAL)),
        ([4, 6, 0], 0, [60, 300]),
        ([4, 1], 1, [60]),
        ([4, 4, 4, 4, 4], 4, [60, 300, 900]),
    ],
)
def test_the_workflow_retries_temporary_faults(ends: list[int], code: int, pauses: list[int], tmp_path: Path) -> None:
    """Its script ends with the exit code of the load, after pauses while the database is unreachable or busy."""
    (step,) = (
        step
        for step in yaml.safe_load((SCHEDULES / "github-actions.yml").read_text())["jobs"]["load"]["steps"]
        if step.get("name") == "load"
    )
    (tmp_path / "ends").write_text("".join(f"{end}\n" for end in ends))
    programs = {
        "etl": 'end=$(head -n 1 ends); sed -i 1d ends; test "$*" = "load shipments exports" && exit "$end"; exit 99',
        "sleep": 'echo "$1" >> pauses',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SOURCE": "exports"},
        capture_output=True,
        text=True,
        check=False,
    )
    waited = (tmp_path / "pauses").read_text().split() if (tmp_path / "pauses").exists() else []
    assert (done.returncode, list(map(int, waited))) == (code, pauses), done.stderr
    assert ("::error::" in done.stdout) is (code != 0)


class Failed(Exception):
    """Replaces the exception after which Airflow does not retry."""


class Skipped(Exception):
    """Replaces the exception that skips a task."""


class TriedAgain(Exception):
    """Replaces the exception after which Airflow retries."""


@pytest.mark.parametrize(
    ("code", "place"),
    [(0, "airflow.exceptions"), *((code, "airflow.sdk.exceptions") for code in [0, *sorted(FINAL | AGAIN)])],
)
def test_airflow_retries_temporary_faults(
    code: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task raises nothing, the exception of a final failure, or that of a retry, by the exit code.

    Airflow 3.0 and 3.1 have the exceptions in `airflow.exceptions`, later ones in `airflow.sdk.exceptions`.
    """
    dag_options: dict[str, Any] = {}

    def dag(**options: Any) -> Callable[[Callable[[], None]], Callable[[], None]]:
        dag_options.update(options)
        return lambda function: function

    names = ("airflow", "airflow.sdk", "airflow.exceptions", "airflow.sdk.exceptions")
    modules = {name: types.ModuleType(name) for name in names}
    vars(modules[place]).update(AirflowException=TriedAgain, AirflowFailException=Failed, AirflowSkipException=Skipped)
    vars(modules["airflow.sdk"]).update(dag=dag, task=lambda function: function)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    program = tmp_path / "etl"
    program.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/asked; exit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    raised: type[Exception] | None = None
    try:
        runpy.run_path(str(SCHEDULES / "airflow_dag.py"))
    except (Failed, TriedAgain) as error:
        raised = type(error)
    assert raised is (None if code == 0 else Failed if code in FINAL else TriedAgain)
    assert (tmp_path / "asked").read_text() == "--log-format json load shipments /srv/exports/shipments --json\n"
    assert (dag_options["max_active_runs"], dag_options["catchup"]) == (1, False)


# Runs the task of the file, and prints the state in which each run leaves it. A retry would wait for minutes.
AIRFLOW = """
import sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions import dag as running

class Waits(BaseException):  # Airflow would catch an Exception, and wait
    pass

def observed(*, ti, **options):
    result = run_task(ti=ti, **options)
    print("STATE", getattr(ti.state, "value", ti.state), flush=True)
    if ti.state == "up_for_retry":
        raise Waits
    return result

run_task, running._run_task = running._run_task, observed
bag = DagBag(sys.argv[1])
print("ERRORS", len(bag.import_errors), list(bag.dags))
try:
    bag.dags["nightly_load"].test()
except Waits:
    pass
"""


@pytest.mark.slow
def test_a_real_airflow_runs_the_task(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Airflow 3 parses the file; the ends of loads are seen as success, skipped, failed without a retry, and retry."""
    programs = made(tmp_path_factory, "airflow", "apache-airflow>=3.3,<3.4")
    exports, dags, home = (site.folder / name for name in ("exports", "dags", "airflow"))
    for folder in (exports, dags):
        folder.mkdir()
    shutil.copy(SCHEDULES / "airflow_dag.py", dags)
    stub = site.folder / "bin" / "etl"
    stub.parent.mkdir()
    stub.write_text(
        f"#!/bin/sh\ntest -f {site.folder}/code && exit $(cat {site.folder}/code)\n"
        f"cd {site.folder} && exec {PROGRAM} --log-format json load shipments {exports} --json\n"
    )
    stub.chmod(0o755)
    environment = site.environment() | {
        "PATH": f"{stub.parent}:{programs}:/usr/bin:/bin",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    del environment["PYTHONPATH"]

    def airflow(*words: str | Path) -> str:
        done = subprocess.run(
            words, env=environment, cwd=site.folder, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0 or "-c" in words, done.stdout + done.stderr
        return done.stdout + done.stderr

    def state() -> str:
        output = airflow(programs / "python", "-c", AIRFLOW, str(dags))
        assert "ERRORS 0 ['nightly_load']" in output
        states = re.findall(r"^STATE (\w+)", output, re.MULTILINE)
        assert len(states) == 1, output
        return str(states[0])

    airflow(programs / "airflow", "db", "migrate")
    record = {"shipment_id": "S1", "created_at": "2026-11-20T08:00:00Z"}
    (exports / "1.json").write_text(json.dumps([record]))
    assert state() == "success"
    assert state() == "skipped"
    (exports / "2.json").write_text(json.dumps([record | {"shipment_id": None}]))
    assert state() == "failed"
    (site.folder / "code").write_text("4")
    assert state() == "up_for_retry"


@pytest.mark.parametrize("code", sorted(AGAIN | FINAL | {0}))
def test_the_script_retries_temporary_faults(tmp_path: Path, code: int) -> None:
    """`etl-retry` retries after the codes that the page names, and ends with the last exit code."""
    stub = tmp_path / "load"
    stub.write_text(f"#!/bin/sh\necho tried >>tries\nexit {code}\n")
    stub.chmod(0o755)
    environment = {"TRIES": "3", "SECONDS_BETWEEN": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([ROOT / "scripts" / "etl-retry", stub], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == code
    assert len((tmp_path / "tries").read_text().splitlines()) == (3 if code in AGAIN else 1)
