import json
import shutil
from pathlib import Path

import pytest
from psycopg import sql

from etl.datasets import default_names, find, names
from tests.support.checkout import ROOT, SAMPLES
from tests.support.records import as_lines
from tests.support.site import Site

OFFERED = sorted(set(names(Path("no-such-folder"))) - set(default_names(Path("no-such-folder"))))

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


def test_every_offered_dataset_loads_its_sample(site: Site) -> None:
    """A document of the standard fills every table, and each column gets a value from it."""
    assert sorted(ROWS) == OFFERED
    for name in OFFERED:
        assert site.run("dataset", "create", name).returncode == 0
        assert site.run("load", name, SAMPLES / f"{name}.json", "--no-precalculate").returncode == 0
        for table in find(name, site.folder / "config").tables:
            counts = sql.SQL(", ").join(
                sql.SQL("count({})").format(sql.Identifier(column.name)) for column in table.columns
            )
            [row] = site.ask(sql.SQL("select count(*), {} from {}").format(counts, table.identifier))
            assert row[0] == ROWS[name][table.name.partition(".")[2]], table.name
            empty = [column.name for column, count in zip(table.columns, row[1:], strict=True) if not count]
            assert empty == [], table.name


def test_offered_datasets_have_no_tables_until_they_are_created(site: Site) -> None:
    """A migrated database has no table of an offered dataset; a load reports the command that creates them."""
    tables = site.ask("select tablename from pg_tables where schemaname = 'logistics'")
    assert not {table for (table,) in tables} & {table for rows in ROWS.values() for table in rows}
    assert site.run("load", "epcis_events", SAMPLES / "epcis_events.json").returncode == 2
    assert site.run("dataset", "create", "epcis_events").returncode == 0
    assert site.run("db", "migrate").returncode == 0


def test_the_list_shows_which_datasets_are_offered(site: Site) -> None:
    """Offered datasets are listed as such; a user's definition of that name makes the dataset a default one."""
    listed = site.run("dataset", "list", "--json").lines
    assert sorted(each["dataset"] for each in listed if each["offered"]) == OFFERED
    folder = site.folder / "config" / "datasets"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "config" / "datasets" / "industry" / "un_locodes.toml", folder)
    assert "un_locodes" in default_names(site.folder / "config")
    assert find("un_locodes", site.folder / "config").path == str(folder / "un_locodes.toml")


def test_epcis_events_load_without_a_document(site: Site) -> None:
    """An array of events, or one event per line, loads with --records; an event without eventID is rejected."""
    events = json.loads((SAMPLES / "epcis_events.json").read_text())["epcisBody"]["eventList"]
    (site.folder / "bare.json").write_text(json.dumps(events))
    (site.folder / "lines.ndjson").write_text(as_lines(*events, {"type": "ObjectEvent"}))
    assert site.run("dataset", "create", "epcis_events").returncode == 0
    assert site.run("load", "epcis_events", "bare.json", "--records", "item").returncode == 0
    assert site.run("load", "epcis_events", "lines.ndjson", "--records", "item", "--max-rejected", "1").returncode == 1
    query = "select event_type, action, occurred_at::text from logistics.epcis_events order by event_id"
    assert site.ask(query) == [
        ("ObjectEvent", "OBSERVE", "2026-03-01 07:15:30.25+00"),
        ("AggregationEvent", "ADD", "2026-03-01 07:40:00+00"),
        ("TransactionEvent", "ADD", "2026-03-01 09:00:00+00"),
        ("TransformationEvent", None, "2026-03-01 10:00:00.123457+00"),
        ("AssociationEvent", "DELETE", "2026-03-01 11:00:00+00"),
    ]
    query = "select epc_class, quantity::text, unit from logistics.epcis_quantities order by line_no"
    assert site.ask(query) == [
        ("urn:epc:class:lgtin:9521321.012346.L77", "40.5", "KGM"),
        ("urn:epc:idpat:sgtin:9521321.012347.*", "12", None),
    ]


def test_codes_keep_every_digit(site: Site) -> None:
    """An SSCC of 18 digits and a GTIN keep every digit, also leading zeros, as texts and as numbers."""
    assert site.run("dataset", "create", "sscc_units").returncode == 0
    assert site.run("load", "sscc_units", SAMPLES / "sscc_units.json").returncode == 0
    query = "select sscc, lpad(parent_sscc, 18, '0') from logistics.sscc_units order by sscc"
    assert site.ask(query) == [
        ("003456789012345675", None),
        ("376104250021234569", "003456789012345675"),
    ]
    query = "select gtin, lot, expires_on::text, expires_note from logistics.sscc_contents order by line_no"
    assert site.ask(query) == [
        ("04012345678901", "007", "2026-09-01", None),
        ("4012345678901", "7", None, "none"),
    ]


def test_offered_aggregates_follow_their_facts(site: Site) -> None:
    """An offered aggregate that a user copies to the configuration is created by db migrate and refreshed by loads."""
    shutil.copytree(ROOT / "sql" / "aggregates" / "industry", site.folder / "config" / "aggregates")
    for name in ("parcel_tracking", "dcsa_events"):
        assert site.run("dataset", "create", name).returncode == 0
    assert site.run("db", "migrate").returncode == 0
    for name in ("parcel_tracking", "dcsa_events"):
        assert site.run("load", name, SAMPLES / f"{name}.json").returncode == 0
    assert site.ask(
        "select day::text, carrier, count_parcels, count_returns from analytics.parcel_days order by 1"
    ) == [
        ("2026-03-01", "USPS", 1, 0),
        ("2026-03-02", "DHL", 1, 1),
    ]
    assert site.ask(
        "select day::text, un_location, equipment_event, distinct_containers from analytics.container_days"
    ) == [("2026-02-10", "NLRTM", "LOAD", 1)]
    assert site.run("precalculate", "--verify").returncode == 0


def test_places_have_coordinates(site: Site) -> None:
    """The view of the page gives degrees: south and west are negative; a place without coordinates is omitted."""
    assert site.run("dataset", "create", "un_locodes").returncode == 0
    assert site.run("load", "un_locodes", SAMPLES / "un_locodes.json").returncode == 0
    page = (ROOT / "docs" / "datasets" / "un_locodes.md").read_text(encoding="utf-8")
    site.connection.execute(page.partition("<<'SQL'\n")[2].partition("\nSQL\n")[0].encode())
    query = "select un_locode, latitude::text, longitude::text from logistics.un_locode_places order by 1"
    assert site.ask(query) == [
        ("NAWVB", "-22.9500", "14.5000"),
        ("NLRTM", "51.9167", "4.5000"),
        ("USNYC", "40.7000", "-74.0000"),
    ]


@pytest.mark.parametrize("name", OFFERED)
def test_every_offered_dataset_has_a_page(name: str) -> None:
    """A page explains the origin of the records, the command that loads them, and their tables."""
    text = (ROOT / "docs" / "datasets" / f"{name}.md").read_text(encoding="utf-8")
    assert f"etl dataset create {name}" in text
    for table in find(name, ROOT / "config").tables:
        assert f"`{table.name}`" in text
