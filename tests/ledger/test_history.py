"""The commands that show past and running loads to operators."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from etl import __version__, cli
from tests.support.commands import Ended, RunEtl
from tests.support.faults import Connection
from tests.support.site import Site
from tests.support.waiting import until

LINE = '{{"vehicle_id": "V{}", "depot": "' + "x" * 100 + '"}}\n'


def _lines(done: Ended) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_runs_are_listed_with_their_state(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The list has the runs that match the filters, the newest first, each with its state and the next command."""
    (tmp_path / "good.ndjson").write_text('{"vehicle_id": "V1"}\n')
    (tmp_path / "bad.ndjson").write_text('{"vehicle_id": "V2", "capacity_kg": -1}\n{"vehicle_id": "V3"}\n')
    (tmp_path / "cut off.ndjson").write_text('{"vehicle_id": "V4"}\n{"vehicle_id"')
    loads = [run_etl("load", "vehicles", name, "--mode", "append") for name in ("good.ndjson", "bad.ndjson")]
    loads.append(run_etl("load", "vehicles", "cut off.ndjson"))
    (tmp_path / "worse.ndjson").write_text('{"vehicle_id": "V5", "capacity_kg": -1}\n')
    loads.append(run_etl("load", "vehicles", "worse.ndjson", "--max-rejected", "0"))
    assert [done.returncode for done in loads] == [0, 1, 3, 5]
    aborted, cut_off, bad, good = _lines(run_etl("runs", "list", "--json"))
    assert [row["status"] for row in (aborted, cut_off, bad, good)] == [
        "aborted",
        "incomplete",
        "loaded_with_rejects",
        "loaded",
    ]
    assert good["next"] is None
    assert cut_off["next"] == "etl load vehicles 'cut off.ndjson'"
    assert bad["next"] == f"etl failed show --run {bad['run']}"
    assert (bad["options"], bad["folder"], bad["tool_version"]) == ("--mode append", str(tmp_path), __version__)
    assert good["records_per_second"] == pytest.approx(1 / good["seconds"], abs=0.1)
    for words, expected in (
        (["--status", "loaded"], [good]),
        (["--limit", "2"], [aborted, cut_off]),
        (["--dataset", "shipments"], []),
        (["--since", "1h", "--dataset", "vehicles", "--limit", "1"], [aborted]),
        (["--since", "2999-01-01"], []),
    ):
        found = _lines(run_etl("runs", "list", "--json", *words))
        assert [row["run"] for row in found] == [row["run"] for row in expected], words
    (tmp_path / "elsewhere").mkdir()
    [moved] = _lines(run_etl("runs", "list", "--json", "--status", "incomplete", cwd=tmp_path / "elsewhere"))
    assert moved["next"] == f"cd {tmp_path} && etl load vehicles 'cut off.ndjson'"
    wrong = run_etl("runs", "list", "--since", "recently")
    assert wrong.returncode == 2
    assert "how long ago as in 30m, 12h, 7d, 2w" in wrong.stderr
    shown = run_etl("runs", "show", aborted["run"]).stdout
    assert f"run {aborted['run']}: aborted, exit code 5" in shown
    assert "etl load vehicles worse.ndjson --max-rejected N" in shown


def test_refused_records_are_counted_by_fault(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Each kind of fault of a run is one row with its table and column and the place of its first record."""
    heavy = '{"vehicle_id": "V0", "capacity_kg": -1}\n'
    text = '{"vehicle_id": "V1"}\n' + heavy + '{"capacity_kg": 5}\n' + heavy
    (tmp_path / "feed.ndjson").write_text(text)
    assert run_etl("load", "vehicles", "feed.ndjson", "--batch-rows", "3").returncode == 1
    run = connection.execute("select run from etl.runs").fetchone()
    assert run
    [shown] = _lines(run_etl("runs", "show", run[0], "--json"))
    negative, missing = shown["faults"]
    assert negative == {
        "kind": "rejected",
        "state": "pending",
        "sqlstate": "23514",
        "table": "logistics.vehicles",
        "column": "capacity_kg",
        "reason": "expected 0 or more",
        "count_records": 2,
        "first_record": 2,
        "first_offset": text.index(heavy),
    }
    assert (missing["sqlstate"], missing["column"], missing["count_records"]) == ("23502", "vehicle_id", 1)
    assert (missing["first_record"], missing["first_offset"]) == (3, text.index('{"capacity_kg": 5}'))
    done = run_etl("runs", "show", run[0])
    assert done.returncode == 0
    assert f"next: etl failed show --run {run[0]}" in done.stdout
    assert "expected 0 or more" in done.stdout
    # For records that an earlier version refused, only the file is known.
    connection.execute("delete from etl.faults")
    [shown] = _lines(run_etl("runs", "show", run[0], "--json"))
    assert sum(fault["count_records"] for fault in shown["faults"]) == 3
    assert {fault["first_record"] for fault in shown["faults"]} == {None}


def test_a_running_load_and_a_killed_one_are_distinguished(site: Site) -> None:
    """A run whose process holds its source is running; a killed one is reported with the command that continues it."""
    running = site.start("load", "vehicles", "-", "--batch-rows", "1000")
    try:
        running.send("".join(LINE.format(number) for number in range(30_000)).encode())
        until(lambda: site.count_batches() > 0, "a batch to load")
        run = site.value("select run from etl.runs")
        shown = site.run("runs", "show", run)
        assert f"run {run}: running, process {running.process.pid} of " in shown.stdout
        assert "its newest batch began" in shown.stdout
        assert running.kill()
    finally:
        running.close()
    site.wait_for_locks()
    shown = site.run("runs", "show", run)
    assert f"run {run}: died, process {running.process.pid} of " in shown.stdout
    assert "next: etl load vehicles -\n" in shown.stdout
    [listed] = site.run("runs", "list", "--status", "died", "--json").lines
    assert (listed["run"], listed["ended_at"]) == (run, None)
    assert listed["records"] == site.value("select sum(count_records)::int from etl.batches")


def test_a_row_is_traced_to_its_record(
    run_etl: RunEtl,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A row is traced to the source, number, byte and text of its record; a missing record is reported."""
    records = [f'{{"vehicle_id": "V{number}", "depot": "Łódź"}}' for number in range(5)]
    shapes = {"lines.ndjson": "\n".join(records), "values.json": "  ".join(records[:3]).replace("V", "W")}
    array = f"[{', '.join(records[:4])}]".replace("V", "X")
    (tmp_path / "array.json.gz").write_bytes(gzip.compress(array.encode()))
    for name, text in shapes.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = run_etl("load", "vehicles", *shapes, "array.json.gz", "--batch-rows", "2", "--no-precalculate")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    for key, source, text, record in (
        ("V3", "lines.ndjson", shapes["lines.ndjson"], 4),
        ("W2", "values.json", shapes["values.json"], 3),
        ("X1", "array.json.gz", array, 2),
    ):
        assert cli.run(["runs", "trace", "logistics.vehicles", f"vehicle_id={key}", "--json"]) == 0
        traced = json.loads(capsys.readouterr().out)
        assert (traced["source"], traced["record"], traced["missing"]) == (source, record, None)
        assert json.loads(traced["text"])["vehicle_id"] == key
        assert text.encode()[traced["offset"] :].startswith(traced["text"].encode())
    (tmp_path / "values.json").write_text(shapes["values.json"].replace("W2", "W9"), encoding="utf-8")
    assert cli.run(["runs", "trace", "logistics.vehicles", "vehicle_id=W2"]) == 0
    shown = capsys.readouterr().out
    assert "record 3 of values.json, loaded by run " in shown
    assert "  values.json has other content now" in shown
    for words, sentence in (
        (["logistics.nothing", "a=1"], "there is no table logistics.nothing"),
        (["logistics.vehicles", "color=red"], "column r.color does not exist"),
        (["logistics.vehicles", "capacity_kg=much"], "a value does not fit the type of its column"),
        (["logistics.vehicles", "vehicle_id=V99"], "no row of logistics.vehicles holds these values"),
        (["logistics.vehicles", "vehicle_id"], "expected COLUMN=VALUE"),
    ):
        assert cli.run(["runs", "trace", *words]) == 2
        wrong = capsys.readouterr()
        assert (wrong.out, sentence in wrong.err) == ("", True), wrong.err


def test_a_row_is_traced_by_a_column_with_a_percent_sign(site: Site) -> None:
    """A percent sign in a name, which begins a placeholder of a statement, is a part of the name."""
    (site.folder / "one.ndjson").write_text('{"vehicle_id": "A"}')
    assert site.run("load", "vehicles", "one.ndjson").returncode == 0
    missing = site.run("runs", "trace", "logistics.vehicles", "v%=1")
    assert missing.returncode == 2
    assert "column r.v% does not exist" in missing.error
    site.ask('alter table logistics.vehicles add "v%" integer default 1, add "%s" integer default 2')
    [traced] = site.run("runs", "trace", "logistics.vehicles", "v%=1", "%s=2", "--json").lines
    assert json.loads(traced["text"]) == {"vehicle_id": "A"}


def test_a_row_of_an_unknown_batch_is_reported(site: Site) -> None:
    """A row that names a run of the ledger, and a batch that it does not have, was not loaded by that run."""
    (site.folder / "one.ndjson").write_text('{"vehicle_id": "A"}')
    assert site.run("load", "vehicles", "one.ndjson").returncode == 0
    site.ask("update logistics.vehicles set etl_batch = 77")
    done = site.run("runs", "trace", "logistics.vehicles", "vehicle_id=A")
    assert (done.returncode, done.stdout) == (0, "the row was not loaded by a run that this ledger knows\n")
