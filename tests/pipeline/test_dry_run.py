"""`load --dry-run` judges records as a load does and leaves nothing behind; `load --limit` loads the first records."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.records import write_shipments


def _count(connection: Connection, table: str) -> int:
    row = connection.execute(f"select count(*) from {table}").fetchone()  # noqa: S608 - names of this file
    return row[0] if row else 0


@pytest.mark.parametrize("decoder", ["auto", pytest.param("ijson", marks=pytest.mark.slow)])
def test_a_dry_run_refuses_what_a_load_refuses(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, decoder: str
) -> None:
    """A dry run reports the exit code, counts and places of the load after it, and changes no table and no folder."""
    # A check that the loader does not know: the server refuses it, and the record at fault is found.
    connection.execute("alter table logistics.shipments add constraint light check (weight_kg < 20000) not valid")
    source = write_shipments(tmp_path / "shipments.json", 1500, bad=0.03)
    load = ["load", "shipments", str(source), "--json", "--no-precalculate", "--batch-rows", "400"]
    load += ["--workers", "1", "--decoder", decoder, "--max-rejected", "100%"]
    relations = _count(connection, "pg_class")
    done = run_etl(*load, "--dry-run")
    report = done.summary
    assert (
        report["dry_run"],
        report["run"],
        report["failed_store"],
        report["status"],
    ) == (
        True,
        None,
        None,
        "checked",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"shipments.json"}
    for table in ("etl.runs", "etl.attempts", "etl.batches", "etl.failures", "etl.touched", "logistics.shipments"):
        assert _count(connection, table) == 0
    assert _count(connection, "pg_class") == relations

    loaded = run_etl(*load)
    summary = loaded.summary
    assert loaded.returncode == done.returncode == report["exit_code"] == 1
    assert report["records"]["withheld"] == summary["records"]["loaded"]
    assert report["records"]["rejected"] == summary["records"]["rejected"] == sum(r["count"] for r in report["reasons"])
    failed = [json.loads(path.read_bytes()) for path in (tmp_path / "failed").rglob("*.json")]
    records = [record for failure in failed for record in failure["records"]]
    assert Counter((r["sqlstate"], r["table"], r["column"]) for r in records) == sum(
        (
            Counter({(reason["sqlstate"], reason["table"], reason["column"]): reason["count"]})
            for reason in report["reasons"]
        ),
        Counter(),
    )
    assert {(reason["first_record"], reason["first_offset"]) for reason in report["reasons"]} <= {
        (record["record"], record["offset"]) for record in records
    }


def test_a_dry_run_ends_with_the_code_of_a_load(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Too many rejects are exit 5, a cut source is 3, good records are 0; checks that a dry run lacks are named."""
    (tmp_path / "good.json").write_text('[{"vehicle_id": "V1"}, {"vehicle_id": "V2"}]')
    (tmp_path / "bad.json").write_text('[{"vehicle_id": null}, {"odometer_km": 1}]')
    (tmp_path / "cut.json").write_text('[{"vehicle_id": "V1"}, {"vehi')
    load = ["load", "vehicles", "--dry-run", "--max-rejected", "1"]
    done = run_etl(*load, "good.json", "bad.json", "cut.json", "--json")
    codes = {
        each["source"]: (each["status"], each["exit_code"]) for each in map(json.loads, done.stdout.splitlines()[:3])
    }
    assert codes == {"good.json": ("checked", 0), "bad.json": ("aborted", 5), "cut.json": ("incomplete", 3)}
    assert done.returncode == 5
    done = run_etl(*load, "good.json")
    assert done.returncode == 0
    assert done.stdout.startswith("dry run: checked vehicles from good.json: 2 read, 0 loaded, 2 withheld")
    assert "foreign keys" in done.stdout
    assert _count(connection, "etl.runs") == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_limit_loads_the_first_records(run_etl: RunEtl, connection: Connection, tmp_path: Path, workers: str) -> None:
    """--limit loads the first N records, of a known source too: exit 0. A load without it loads the rest."""
    (tmp_path / "fleet.json").write_text(
        json.dumps([{"vehicle_id": f"V{number:02}"} for number in range(20)], indent=1)
    )
    load = ["load", "vehicles", "fleet.json", "--json", "--no-precalculate", "--workers", workers, "--batch-rows", "6"]

    def load_limited(*more: str) -> tuple[Any, ...]:
        done = run_etl(*load, *more)
        report = done.summary
        assert done.returncode == report["exit_code"] == 0
        return (
            report["status"],
            report["records"]["loaded"],
            report["records"]["skipped"],
        )

    assert load_limited("--limit", "5") == ("incomplete", 5, 0)
    ids = [name for (name,) in connection.execute("select vehicle_id from logistics.vehicles order by 1")]
    assert ids == [f"V{number:02}" for number in range(5)]
    assert load_limited("--limit", "13") == ("incomplete", 8, 5)
    assert load_limited("--limit", "4") == ("incomplete", 0, 4)
    assert load_limited() == ("loaded", 7, 13)
    assert load_limited("--limit", "3")[:2] == ("already_loaded", 0)
    assert _count(connection, "logistics.vehicles") == 20
    assert _count(connection, "etl.runs") == 1


def test_a_limit_and_a_whole_source_exclude_each_other(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """--limit with --atomic is exit 2, because --atomic shows whole sources only; a dry run accepts a limit."""
    (tmp_path / "fleet.json").write_text('[{"vehicle_id": "V1"}, {"vehicle_id": null}]')
    done = run_etl("load", "vehicles", "fleet.json", "--limit", "1", "--atomic")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--limit brings in a part of a source" in done.stderr
    done = run_etl("load", "vehicles", "fleet.json", "--limit", "1", "--atomic", "--dry-run", "--json")
    assert (done.returncode, done.summary["records"]["read"]) == (0, 1)
