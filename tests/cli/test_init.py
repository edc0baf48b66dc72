"""`etl init` creates a first project, and `dataset check` shows the rows of the first records of a file."""

import json
from pathlib import Path

import pytest

from tests.support.commands import RunEtl
from tests.support.faults import Connection

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
note = "text"
[[table]]
name = "logistics.parcel_items"
each = "items"
[table.columns]
parcel_id = { path = "^.parcel_id", type = "text" }
pieces = "integer"
"""


no_database = pytest.mark.parametrize("database_url", ["postgresql://nobody@127.0.0.1:1/nowhere"], ids=["no database"])


def test_what_init_writes_can_be_checked_and_loaded(run_etl: RunEtl, postgresql: Connection, tmp_path: Path) -> None:
    """The commands that init prints work unchanged; existing files are kept."""
    done = run_etl("init", "--dataset", "boxes")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if line.startswith("  etl "):
            step = run_etl(*line.split()[1:])
            assert step.returncode == 0, (line, step.stderr)
    assert postgresql.execute("select count(*) from logistics.boxes").fetchone() == (2,)
    settings = tmp_path / "config" / "etl.toml"
    settings.write_text("batch_rows = 7\n")
    again = run_etl("init", "--dataset", "boxes")
    assert (again.returncode, again.stdout) == (2, "")
    assert "a dataset called boxes exists already" in again.stderr
    assert run_etl("init", "--dataset", "../out").returncode == 2
    assert run_etl("init", "--dataset", "crates").returncode == 0
    assert settings.read_text() == "batch_rows = 7\n"


@no_database
def test_the_first_records_of_a_file_are_shown_as_rows(run_etl: RunEtl, tmp_path: Path) -> None:
    """`dataset check NAME FILE` without a database shows values as they are loaded, and reports faults: exit code 1."""
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    (tmp_path / "config" / "datasets" / "parcels.toml").write_text(PARCELS)
    good = {"parcel_id": "P\t1", "note": "a\\N\nb", "items": [{"pieces": 1}, {"pieces": "2"}]}
    (tmp_path / "feed.ndjson").write_text("\n".join(json.dumps(each) for each in (good, {"note": ""}, good, good)))
    check = ["dataset", "check", "parcels", "feed.ndjson", "--limit", "3"]
    done = run_etl(*check, "--json")
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert first["rows"] == [
        {"table": "logistics.parcels", "values": {"parcel_id": "P\t1", "note": "a\\N\nb"}},
        {"table": "logistics.parcel_items", "values": {"parcel_id": "P\t1", "pieces": "1"}},
        {"table": "logistics.parcel_items", "values": {"parcel_id": "P\t1", "pieces": "2"}},
    ]
    assert (second["record"], second["rows"]) == (2, [])
    assert (second["fault"]["sqlstate"], second["fault"]["column"]) == ("23502", "parcel_id")
    assert third["offset"] == len(json.dumps(good)) + len(json.dumps({"note": ""})) + 2
    printed = run_etl(*check)
    assert printed.returncode == 1
    assert "23502 logistics.parcels.parcel_id: " in printed.stdout
    assert printed.stdout.endswith("2 of 3 records fit\n")
    (tmp_path / "feed.ndjson").write_text("no json")
    assert run_etl(*check).returncode == 3
    assert run_etl(*check, "--records", "a..b").returncode == 2


def test_settled_failures_are_purged(run_etl: RunEtl, postgresql: Connection, tmp_path: Path) -> None:
    """Files of replayed and discarded failures are removed when they are old enough; pending ones stay."""
    (tmp_path / "fleet.ndjson").write_text(
        '{"vehicle_id": "V1", "capacity_kg": "x"}\n{"vehicle_id": "V2", "capacity_kg": "x"}\n'
    )
    load = ["load", "vehicles", "fleet.ndjson", "--batch-rows", "1", "--max-rejected", "100%", "--no-precalculate"]
    assert run_etl(*load).returncode == 1
    one, other = [row[0] for row in postgresql.execute("select id from etl.failures order by id").fetchall()]
    postgresql.commit()
    assert run_etl("failed", "discard", one, "--reason", "test data").returncode == 0
    done = run_etl("failed", "purge", "--older-than", "1h", "--json")
    assert (done.returncode, done.stdout) == (0, "")
    done = run_etl("failed", "purge", "--older-than", "0h", "--json")
    (removed,) = map(json.loads, done.stdout.splitlines())
    assert (removed["id"], removed["state"], removed["count_records"]) == (one, "discarded", 1)
    assert {path.stem for path in (tmp_path / "failed").rglob("*.*json")} == {other}
    shown = run_etl("failed", "show", one)
    assert shown.returncode == 2
    assert "`etl failed purge` may have removed it" in shown.stderr
    assert "0 files with 0 records removed" in run_etl("failed", "purge", "--older-than", "0h").stdout
    states = postgresql.execute("select id, state from etl.failures order by id").fetchall()
    assert states == [(one, "discarded"), (other, "pending")]
    assert "such as 30d" in run_etl("failed", "purge", "--older-than", "month").stderr
