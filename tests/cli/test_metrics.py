"""The metrics for Prometheus; alerts and dashboard use no others."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from etl import cli
from etl.errors import DatabaseError
from etl.metrics import METRICS, Report, require_writable
from tests.support.checkout import ROOT
from tests.support.commands import RunEtl

MONITORING = ROOT / "config" / "monitoring"


def _samples(path: Path) -> dict[tuple[str, ...], float]:
    """Return the samples of a metrics file by name and labels."""
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_a_load_writes_metrics_of_its_end(run_etl: RunEtl, tmp_path: Path) -> None:
    """The file has exit code, times, counts, pending records and the age of aggregates; it keeps other datasets."""
    path = tmp_path / "etl.prom"
    (tmp_path / "good.ndjson").write_text('{"vehicle_id": "V1"}\n{"vehicle_id": "V2"}\n')
    (tmp_path / "bad.ndjson").write_text('{"vehicle_id": "V3"}\n{"vehicle_id": "V4", "capacity_kg": -1}\n')
    done = run_etl("load", "vehicles", "good.ndjson", "bad.ndjson", "--metrics-file", path)
    assert (done.returncode, path.stat().st_mode & 0o444) == (1, 0o444), done.stderr
    first = _samples(path)
    assert first["etl_last_exit_code", "load", "vehicles"] == 1
    assert first["etl_last_records", "load", "vehicles", "loaded"] == 3
    assert first["etl_last_records", "load", "vehicles", "rejected"] == 1
    assert first["etl_last_rows", "load", "vehicles", "logistics.vehicles"] == 3
    assert first["etl_last_batches", "load", "vehicles", "loaded"] == 2
    assert first["etl_last_bytes", "load", "vehicles"] > 80
    assert first["etl_last_retries", "load", "vehicles"] == 0
    assert first["etl_pending_records", "vehicles"] == 1
    assert first["etl_aggregate_pending_buckets", "vehicle_days"] == 0
    now = time.time()
    for name in ("etl_last_run_timestamp_seconds", "etl_last_success_timestamp_seconds"):
        assert 0 <= now - first[name, "load", "vehicles"] < 60
    assert 0 <= now - first["etl_aggregate_refreshed_timestamp_seconds", "vehicle_days"] < 60
    # A missing source does not change the last success or the metrics of vehicles.
    failed = run_etl("load", "vehicle_logs", "none.json", env={"ETL_METRICS_FILE": str(path)})
    assert failed.returncode == 3
    second = _samples(path)
    assert second["etl_last_exit_code", "load", "vehicle_logs"] == 3
    assert ("etl_last_success_timestamp_seconds", "load", "vehicle_logs") not in second
    own = ("etl_last", "etl_pending")
    assert {key: value for key, value in second.items() if key[0].startswith(own) and "vehicles" in key} == {
        key: value for key, value in first.items() if key[0].startswith(own)
    }
    # When the file is new, the last success comes from the ledger.
    path.unlink()
    assert run_etl("load", "vehicles", "none.json", "--metrics-file", path).returncode == 3
    third = _samples(path)
    assert 0 <= now - third["etl_last_success_timestamp_seconds", "load", "vehicles"] < 60
    assert third["etl_last_exit_code", "load", "vehicles"] == 3
    assert [each.name for each in tmp_path.iterdir() if "prom" in each.name] == ["etl.prom"]


def test_replay_and_precalculation_write_metrics_too(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay writes its records by dataset, a precalculation its end; each keeps the metrics of the other."""
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    monkeypatch.setenv("ETL_METRICS_FILE", "etl.prom")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ndjson").write_text('{"vehicle_id": "V4", "capacity_kg": -1}\n')
    assert cli.run(["load", "vehicles", "bad.ndjson", "--no-precalculate"]) == 1
    assert cli.run(["failed", "replay", "--all", "--no-precalculate"]) == 1
    (stored,) = (path for path in tmp_path.rglob("*.ndjson") if path.stem.endswith("-rr"))
    stored.write_text('{"vehicle_id": "V4", "capacity_kg": 1}\n')
    assert cli.run(["failed", "replay", "--all"]) == 0
    assert cli.run(["precalculate", "vehicle_days"]) == 0
    samples = _samples(tmp_path / "etl.prom")
    assert samples["etl_last_records", "replay", "vehicles", "loaded"] == 1
    assert samples["etl_last_exit_code", "replay", "vehicles"] == 0
    assert samples["etl_last_exit_code", "precalculate", ""] == 0
    assert samples["etl_last_exit_code", "load", "vehicles"] == 1
    assert samples["etl_pending_records", "vehicles"] == 0


@pytest.mark.parametrize("name", ["nowhere/etl.prom", "folder"])
def test_a_metrics_file_that_cannot_be_written_is_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A metrics file in a missing folder, or one that is a folder, ends the command before it starts any work."""
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("ETL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    monkeypatch.chdir(tmp_path)
    for words in (["load", "vehicles", "x.json"], ["failed", "replay", "--all"], ["precalculate"], ["listen"]):
        assert cli.run([*words, "--metrics-file", name]) == 2
        stderr = capsys.readouterr().err
        assert f"error: the metrics file {name} cannot be written: " in stderr
        assert "hint: name another by --metrics-file or ETL_METRICS_FILE" in stderr
    require_writable(tmp_path / "etl.prom")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_file_that_cannot_be_written_at_the_end_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A metrics file that becomes unwritable during the command does not change its exit code."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with Report(folder / "etl.prom", "load", "vehicles") as report:
        folder.rmdir()
    assert report.exit_code == 0


def test_an_error_writes_its_exit_code(tmp_path: Path) -> None:
    """A command that ends with an error writes its exit code; the file of another program is replaced."""
    path = tmp_path / "etl.prom"
    path.write_text("this is no metrics file {\n")
    for error, code in ((DatabaseError("away"), 4), (KeyboardInterrupt(), 130), (ValueError(), 70)):
        with pytest.raises(type(error)), Report(path, "load", "vehicles"):
            raise error
        assert _samples(path)["etl_last_exit_code", "load", "vehicles"] == code
        assert ("etl_last_success_timestamp_seconds", "load", "vehicles") not in _samples(path)


def test_nothing_is_written_where_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --metrics-file nothing is written."""
    monkeypatch.chdir(tmp_path)
    with Report(None, "load", "vehicles"):
        pass
    assert list(tmp_path.iterdir()) == []


def _expressions() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in _dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in _dashboard()["templating"]["list"] if variable["type"] == "query")


def _dashboard() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))
    return dashboard


def test_alerts_and_dashboard_use_existing_metrics() -> None:
    """The tool writes each metric and label that they use, and each metric is in the dashboard or an alert."""
    asked = set()
    for expression in _expressions():
        names = re.findall(r"\betl_\w+", expression)
        assert names, expression
        asked.update(names)
        for name, labels in re.findall(r"(etl_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=", labels)) <= set(METRICS[name].labels), expression
        assert expression.count("(") == expression.count(")")
    assert asked == set(METRICS)


def test_the_alerts_are_a_rule_file() -> None:
    """Every rule has the parts that Prometheus requires, and the labels in its texts are those of its metric."""
    document = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    assert set(document) == {"groups"}
    for group in document["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert (
                {"alert", "expr", "labels", "annotations"}
                <= set(rule)
                <= {
                    *("alert", "expr", "for", "labels", "annotations"),
                }
            )
            assert re.fullmatch(r"[A-Z]\w+", rule["alert"])
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1h"))
            [name] = set(re.findall(r"\betl_\w+", rule["expr"]))
            for text in rule["annotations"].values():
                assert set(re.findall(r"\$labels\.(\w+)", text)) <= set(METRICS[name].labels)
    promtool = shutil.which("promtool")
    if promtool:
        subprocess.run([promtool, "check", "rules", MONITORING / "alerts.yml"], check=True, env=dict(os.environ))


def test_every_metric_is_explained() -> None:
    """The page about monitoring has a row for each metric with its labels."""
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(etl_\w+)` \| ([^|]*) \|", page, re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {
        name: metric.labels for name, metric in METRICS.items()
    }
