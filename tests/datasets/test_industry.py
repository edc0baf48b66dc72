import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from etl import cli
from etl.datasets import find, names, standing
from tests.support.checkout import ROOT, SAMPLES
from tests.support.faults import Connection

Etl = Callable[..., int]

OFFERED = sorted(set(names(Path("no-such-folder"))) - set(standing(Path("no-such-folder"))))

ROWS = {
    "aftership_tracking": {"aftership_trackings": 1, "aftership_checkpoints": 2},
    "dcsa_events": {"dcsa_events": 3, "dcsa_document_references": 3, "dcsa_references": 2, "dcsa_seals": 1},
    "dcsa_events_v3": {"dcsa_events_v3": 3},
    "epcis_events": {
        "epcis_events": 5,
        "epcis_epcs": 3,
        "epcis_child_epcs": 3,
        "epcis_input_epcs": 1,
        "epcis_output_epcs": 1,
        "epcis_quantities": 2,
        "epcis_child_quantities": 1,
        "epcis_input_quantities": 1,
        "epcis_output_quantities": 1,
        "epcis_biz_transactions": 3,
    },
    "one_record_waybills": {"one_record_waybills": 2},
    "parcel_tracking": {"parcel_trackers": 2, "parcel_scans": 3},
    "sscc_units": {"sscc_units": 2, "sscc_contents": 2},
    "un_locodes": {"un_locodes": 4},
}


@pytest.fixture
def etl(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etl:
    """Return a function that runs a command in an empty folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ETL_", "PG"))]:
        monkeypatch.delenv(name)
    return lambda *words: cli.run(["--log-level", "error", "--database", database_url, *map(str, words)])


def _load(etl: Etl, name: str, source: Path, *options: str) -> int:
    return etl("load", name, source, *options)


def _rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    connection.autocommit = True
    return connection.execute(query.encode()).fetchall()


def test_every_offered_dataset_loads_its_sample(etl: Etl, postgresql: Connection) -> None:
    """A document as the standard writes it becomes the rows of every table, and each column gets a value from it."""
    assert sorted(ROWS) == OFFERED
    for name in OFFERED:
        assert etl("dataset", "create", name) == 0
        assert _load(etl, name, SAMPLES / f"{name}.json", "--no-precalculate") == 0
        for table in find(name, Path("config")).tables:
            counts = sql.SQL(", ").join(
                sql.SQL("count({})").format(sql.Identifier(column.name)) for column in table.columns
            )
            postgresql.autocommit = True
            row = postgresql.execute(sql.SQL("select count(*), {} from {}").format(counts, table.identifier)).fetchone()
            assert row is not None
            assert row[0] == ROWS[name][table.name.partition(".")[2]], table.name
            empty = [column.name for column, count in zip(table.columns, row[1:], strict=True) if not count]
            assert empty == [], table.name


def test_offered_datasets_have_no_tables_until_they_are_created(etl: Etl, postgresql: Connection) -> None:
    """A migrated database has no table of an offered dataset; a load tells the command that makes them."""
    tables = _rows(postgresql, "select tablename from pg_tables where schemaname = 'logistics'")
    assert not {table for (table,) in tables} & {table for rows in ROWS.values() for table in rows}
    assert _load(etl, "epcis_events", SAMPLES / "epcis_events.json") == 2
    assert etl("dataset", "create", "epcis_events") == 0
    assert etl("db", "migrate") == 0


def test_the_list_tells_which_datasets_are_offered(etl: Etl, capsys: pytest.CaptureFixture[str]) -> None:
    """The offered ones are listed as such, and a definition of one's own makes one of that name a standing one."""
    assert etl("dataset", "list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(each["dataset"] for each in listed if each["offered"]) == OFFERED
    folder = Path("config/datasets")
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "config" / "datasets" / "industry" / "un_locodes.toml", folder)
    assert "un_locodes" in standing(Path("config"))
    assert find("un_locodes", Path("config")).path == "config/datasets/un_locodes.toml"


def test_epcis_events_come_bare_too(etl: Etl, postgresql: Connection) -> None:
    """An array of events, or one per line, loads with the path of its records; one without eventID is rejected."""
    events = json.loads((SAMPLES / "epcis_events.json").read_text())["epcisBody"]["eventList"]
    Path("bare.json").write_text(json.dumps(events))
    Path("lines.ndjson").write_text("".join(f"{json.dumps(event)}\n" for event in [*events, {"type": "ObjectEvent"}]))
    assert etl("dataset", "create", "epcis_events") == 0
    assert _load(etl, "epcis_events", Path("bare.json"), "--records", "item") == 0
    assert _load(etl, "epcis_events", Path("lines.ndjson"), "--records", "item", "--max-rejected", "1") == 1
    query = "select event_type, action, occurred_at::text from logistics.epcis_events order by event_id"
    assert _rows(postgresql, query) == [
        ("ObjectEvent", "OBSERVE", "2026-03-01 07:15:30.25+00"),
        ("AggregationEvent", "ADD", "2026-03-01 07:40:00+00"),
        ("TransactionEvent", "ADD", "2026-03-01 09:00:00+00"),
        ("TransformationEvent", None, "2026-03-01 10:00:00.123457+00"),
        ("AssociationEvent", "DELETE", "2026-03-01 11:00:00+00"),
    ]
    query = "select epc_class, quantity::text, unit from logistics.epcis_quantities order by line_no"
    assert _rows(postgresql, query) == [
        ("urn:epc:class:lgtin:9521321.012346.L77", "40.5", "KGM"),
        ("urn:epc:idpat:sgtin:9521321.012347.*", "12", None),
    ]


def test_codes_keep_every_digit(etl: Etl, postgresql: Connection) -> None:
    """An SSCC of 18 digits and a GTIN stay what they are, as texts with their zeros and as numbers."""
    assert etl("dataset", "create", "sscc_units") == 0
    assert _load(etl, "sscc_units", SAMPLES / "sscc_units.json") == 0
    query = "select sscc, lpad(parent_sscc, 18, '0') from logistics.sscc_units order by sscc"
    assert _rows(postgresql, query) == [
        ("003456789012345675", None),
        ("376104250021234569", "003456789012345675"),
    ]
    query = "select gtin, lot, expires_on::text, expires_note from logistics.sscc_contents order by line_no"
    assert _rows(postgresql, query) == [
        ("04012345678901", "007", "2026-09-01", None),
        ("4012345678901", "7", None, "none"),
    ]


def test_offered_aggregates_follow_their_facts(etl: Etl, postgresql: Connection) -> None:
    """Copied into the configuration folder, an offered aggregate is made by db migrate and refreshed by loads."""
    shutil.copytree(ROOT / "sql" / "aggregates" / "industry", "config/aggregates")
    for name in ("parcel_tracking", "dcsa_events"):
        assert etl("dataset", "create", name) == 0
    assert etl("db", "migrate") == 0
    for name in ("parcel_tracking", "dcsa_events"):
        assert _load(etl, name, SAMPLES / f"{name}.json") == 0
    assert _rows(
        postgresql, "select day::text, carrier, count_parcels, count_returns from analytics.parcel_days order by 1"
    ) == [
        ("2026-03-01", "USPS", 1, 0),
        ("2026-03-02", "DHL", 1, 1),
    ]
    assert _rows(
        postgresql, "select day::text, un_location, equipment_event, count_containers from analytics.container_days"
    ) == [("2026-02-10", "NLRTM", "LOAD", 1)]
    assert etl("precalculate", "--verify") == 0


def test_places_have_coordinates(etl: Etl, postgresql: Connection) -> None:
    """The view of the page gives degrees: south and west are negative, a place without coordinates is left out."""
    assert etl("dataset", "create", "un_locodes") == 0
    assert _load(etl, "un_locodes", SAMPLES / "un_locodes.json") == 0
    page = (ROOT / "docs" / "datasets" / "un_locodes.md").read_text(encoding="utf-8")
    postgresql.autocommit = True
    postgresql.execute(page.partition("<<'SQL'\n")[2].partition("\nSQL\n")[0].encode())
    query = "select un_locode, latitude::text, longitude::text from logistics.un_locode_places order by 1"
    assert _rows(postgresql, query) == [
        ("NAWVB", "-22.9500", "14.5000"),
        ("NLRTM", "51.9167", "4.5000"),
        ("USNYC", "40.7000", "-74.0000"),
    ]


@pytest.mark.parametrize("name", OFFERED)
def test_every_offered_dataset_has_a_page(name: str) -> None:
    """A page tells where the records come from, how they are loaded, and which tables they become."""
    text = (ROOT / "docs" / "datasets" / f"{name}.md").read_text(encoding="utf-8")
    assert f"etl dataset create {name}" in text
    for table in find(name, ROOT / "config").tables:
        assert f"`{table.name}`" in text
