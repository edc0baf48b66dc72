"""The files that load many sources by many commands: an Indexed Job of Kubernetes, and a mapped task of Airflow."""

import json
import runpy
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_schedules import AGAIN, FINAL, PROGRAM, SCHEDULES, Failed, TriedAgain
from tests.support.site import Site

JOB = yaml.safe_load((SCHEDULES / "kubernetes-indexed-job.yaml").read_text())["spec"]


def test_the_pods_of_an_indexed_job_load_each_file_once(site: Site) -> None:
    """Together the pods load all files, also those whose name has a space, and no file twice."""
    exports = site.folder / "exports files"
    exports.mkdir()
    for number in range(6):
        record = {"shipment_id": f"S{number}", "created_at": "2026-11-20T08:00:00Z"}
        (exports / f"day {number}.json").write_text(json.dumps([record]))
    [container] = JOB["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert given["COMPLETIONS"] == str(JOB["completions"])
    env = site.environment({"FOLDER": str(exports), "COMPLETIONS": given["COMPLETIONS"]})
    env["PATH"] = f"{PROGRAM.parent}:{env['PATH']}"
    codes = [
        subprocess.run(
            [*container["command"], *container["args"]],
            env=env | {"JOB_COMPLETION_INDEX": str(index)},
            cwd=site.folder,
            capture_output=True,
            check=False,
        ).returncode
        for index in range(JOB["completions"])
    ]
    assert codes == [0, 0, 0, 0]
    assert site.value("select count(*) from logistics.shipments") == 6
    assert site.value("select count(*) from etl.runs") == 6


def test_an_index_that_a_person_must_look_at_is_not_retried() -> None:
    """The exit codes of the policy are the final ones, and the other indexes continue."""
    [rule] = [rule for rule in JOB["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert (rule["action"], set(rule["onExitCodes"]["values"])) == ("FailIndex", FINAL)
    assert JOB["maxFailedIndexes"] == JOB["completions"]


class _Task:
    """A task of Airflow, as far as the file uses it: called, or mapped."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the task."""
        return _Done(self._function(*arguments, **options))

    def partial(self, **given: Any) -> Any:
        """Return what `expand` maps."""
        return types.SimpleNamespace(
            expand=lambda source: _Done([self._function(**given, source=each) for each in source.value])
        )


class _Done:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __rshift__(self, other: "_Done") -> "_Done":
        return other


@pytest.mark.parametrize("code", [0, 1, 4])
def test_airflow_maps_one_load_to_each_file(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file has a load of its own, and a load that ends with an error fails its own task, or retries it."""
    modules = {name: types.ModuleType(name) for name in ("airflow", "airflow.sdk", "airflow.sdk.exceptions")}
    vars(modules["airflow.sdk.exceptions"]).update(AirflowException=TriedAgain, AirflowFailException=Failed)

    def task(function: Callable[..., Any] | None = None, **_options: Any) -> Any:
        return _Task if function is None else _Task(function)

    vars(modules["airflow.sdk"]).update(dag=lambda **_options: lambda function: function, task=task)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exports = tmp_path / "exports"
    exports.mkdir()
    for name in ("b.json", "a.json"):
        (exports / name).write_text("[]")
    text = (SCHEDULES / "airflow_mapped_dag.py").read_text()
    assert '"/srv/exports/shipments"' in text
    (tmp_path / "dag.py").write_text(text.replace("/srv/exports/shipments", str(exports)))
    program = tmp_path / "etl"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked; exit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    raised: type[Exception] | None = None
    try:
        runpy.run_path(str(tmp_path / "dag.py"))
    except (Failed, TriedAgain) as error:
        raised = type(error)
    assert raised is (None if code == 0 else Failed if code in FINAL else TriedAgain)
    assert code in AGAIN | FINAL | {0}
    asked = (tmp_path / "asked").read_text().splitlines()
    loads = [
        f"--log-format json load shipments {exports}/{name} --no-precalculate --json" for name in ("a.json", "b.json")
    ]
    assert asked == ([*loads, "--log-format json precalculate"] if code == 0 else loads[:1])
