"""The events of OpenLineage: valid, complete, without content of records, and never in the way of a load."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openlineage.client.serde import Serde
from referencing import Registry, Resource

from etl.lineage import facts
from etl.lineage.events import made
from etl.settings import lineage_is_on
from tests.support.checkout import ROOT
from tests.support.collectors import Collector, Manner, collector
from tests.support.definitions import Define
from tests.support.site import Site
from tests.support.waiting import until

SCHEMAS = [json.loads(path.read_text()) for path in (ROOT / "tests/support/samples/openlineage").glob("*.json")]
REGISTRY: Registry[Any] = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in SCHEMAS)

PARCELS = """
name = "parcels"
mode = "merge"
key = ["parcel_id"]
[[table]]
name = "logistics.parcels"
comment = "One row per parcel"
[table.columns]
parcel_id = { type = "text", required = true, comment = "Identifies it" }
city = { path = "to.city", type = "text", trim = true }
feed = { value = "$source", type = "text" }
raw = { path = ".", type = "jsonb" }
pieces = { type = "integer", min = 1 }
[[table]]
name = "logistics.stops"
each = ["legs", "stops"]
[table.columns]
parcel_id = { path = "^.^.parcel_id", type = "text" }
leg = { path = "^.no", type = "integer" }
line_no = { path = "#", type = "integer" }
place = "text"
"""


def require_valid(event: dict[str, Any]) -> None:
    """Validate an event by the published schema, and each of its facets by the schema that it names."""
    _validator("https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent").validate(event)
    datasets = [*event["inputs"], *event["outputs"]]
    holders = [event["run"], event["job"], *datasets]
    facets = [holder.get("facets") or {} for holder in holders]
    facets += [each.get(kind) or {} for each in datasets for kind in ("inputFacets", "outputFacets")]
    for name, facet in (item for each in facets for item in each.items()):
        _validator(facet["_schemaURL"]).validate(facet)
        assert facet["_producer"].startswith("https://"), name


def _validator(url: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        {"$ref": url}, registry=REGISTRY, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def run(site: Site, found: Collector, *words: str, **environment: str) -> int:
    """Run a command with this collector, and return its exit code."""
    return site.run(*words, env={"OPENLINEAGE_URL": found.url, **environment}, own_process=True).returncode


def test_the_definition_says_which_member_becomes_which_column(define: Define) -> None:
    """Paths count from the record on, through arrays and outwards; constants and positions come from no member."""
    dataset = define(PARCELS)
    source = facts.source_of("s3://user:secret@exports/2026/a.json", dataset)
    assert (source.namespace, source.name) == ("s3://exports", "2026/a.json")
    tables = facts.tables_of(dataset, "postgres://db:5432", "wms")
    work = facts.Work(
        key="r",
        job="load.parcels",
        kind="LOAD",
        description="d",
        began_at=datetime.now(UTC),
        inputs=[source],
        outputs=tables,
    )
    event = json.loads(Serde.to_json(made(facts.Event(work=work, state="FAIL", at=datetime.now(UTC), error="no"))))
    require_valid(event)
    lineage = {
        column: taken["inputFields"][0]["field"]
        for output in event["outputs"]
        for column, taken in output["facets"]["columnLineage"]["fields"].items()
    }
    assert lineage == {
        "parcel_id": "parcel_id",
        "city": "to.city",
        "raw": ".",
        "pieces": "pieces",
        "leg": "legs.no",
        "place": "legs.stops.place",
    }
    assert {each["name"] for each in event["inputs"][0]["facets"]["schema"]["fields"]} == set(lineage.values())
    changed = event["outputs"][0]["facets"]["columnLineage"]["fields"]["city"]["inputFields"][0]["transformations"]
    assert [each["subtype"] for each in changed] == ["TRANSFORMATION"]


def test_a_load_and_its_refreshes_are_reported(site: Site) -> None:
    """A run and each refresh begin and complete, with tables, row counts, and the run of the scheduler above them."""
    site.define(PARCELS)
    (site.folder / "a.json").write_text(
        '[{"parcel_id": "P1", "legs": [{"stops": [{}, {}]}]}, {"parcel_id": "P2", "pieces": 0}]'
    )
    parent = "yard/nightly.load/0190a4c8-3a6e-7f3b-8d0a-6a1a0a4b4d1e"
    with collector() as found:
        words = ("load", "parcels", "a.json", "--max-rejected", "5")
        assert run(site, found, *words, OPENLINEAGE_PARENT_ID=parent, OPENLINEAGE_NAMESPACE="yard") == 1
    for event in found.events:
        require_valid(event)
        job = event["run"]["facets"]["parent"]["job"]
        assert (job["namespace"], job["name"]) == ("yard", "nightly.load")
    start, complete = found.of("load.parcels")
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    [source] = complete["inputs"]
    assert (source["namespace"], source["name"]) == ("file", str(site.folder / "a.json"))
    assert source["inputFacets"]["inputStatistics"]["rowCount"] == 2
    rows = {
        each["name"].partition(".")[2]: each["outputFacets"]["outputStatistics"]["rowCount"]
        for each in complete["outputs"]
    }
    assert rows == {"logistics.parcels": 1, "logistics.stops": 2}
    [run_of_ledger] = site.connection.execute("select run from etl.runs").fetchone() or ()
    assert run_of_ledger in {tag["value"] for tag in complete["run"]["facets"]["tags"]["tags"]}
    start, complete = found.of("precalculate.data_quality")
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert "etl.separate_batches" in {each["name"].partition(".")[2] for each in complete["inputs"]}
    [output] = complete["outputs"]
    assert output["name"].endswith(".analytics.data_quality")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] >= 1
    assert {each["name"] for each in output["facets"]["schema"]["fields"]} >= {"dataset"}


@pytest.mark.slow
def test_a_failure_is_reported_without_content(site: Site) -> None:
    """A load that stops and a refresh that fails end with FAIL and their error, which quotes no record."""
    site.define(PARCELS)
    (site.folder / "a.json").write_text('[{"parcel_id": "P1"}, {"parcel_id": "SECRET", "pieces": "secret"}] and more')
    with collector() as found:
        assert run(site, found, "load", "parcels", "a.json") == 3
        site.connection.execute(
            "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place)"
            " values ('SECRET', '2026-11-20', 1, 0, 1)"
        )
        site.connection.execute("alter table analytics.daily_shipments add check (false) not valid")
        words = ("precalculate", "daily_shipments", "--full")
        ended = site.run(*words, env={"OPENLINEAGE_URL": found.url}, own_process=True)
        assert ended.returncode == 2, ended.stderr
    for event in found.events:
        require_valid(event)
    assert "secret" not in json.dumps(found.events).lower()
    assert [each["eventType"] for each in found.of("load.parcels")] == ["START", "FAIL"]
    assert "a.json" in found.of("load.parcels")[1]["run"]["facets"]["errorMessage"]["message"]
    refreshed = found.of("precalculate.daily_shipments")
    assert [each["eventType"] for each in refreshed] == ["START", "FAIL"]
    assert "daily_shipments" in refreshed[1]["run"]["facets"]["errorMessage"]["message"]


@pytest.mark.slow
def test_each_of_many_small_files_is_reported(site: Site) -> None:
    """Files that one transaction loads are runs of their own."""
    site.define(PARCELS)
    for number in range(3):
        (site.folder / f"{number}.json").write_text(f'[{{"parcel_id": "P{number}"}}]')
    with collector() as found:
        assert run(site, found, "load", "parcels", "0.json", "1.json", "2.json", "--no-precalculate") == 0
    names = [(each["eventType"], each["inputs"][0]["name"].rpartition("/")[2]) for each in found.of("load.parcels")]
    assert names == [(state, f"{number}.json") for number in range(3) for state in ("START", "COMPLETE")]


@pytest.mark.slow
def test_a_load_that_a_signal_stops_is_reported(site: Site) -> None:
    """SIGTERM ends a run with FAIL; the next command of the run is another one that completes."""
    site.define(PARCELS)
    with collector() as found:
        running = site.start("load", "parcels", "-", "--linger", "0.1", env={"OPENLINEAGE_URL": found.url})
        running.send(b'{"parcel_id": "P1"}\n{"parcel_id": "P2"}\n')
        until(lambda: found.of("load.parcels"), "the begin of the run")
        running.process.send_signal(signal.SIGTERM)
        assert running.ended().returncode == 143
    start, fail = found.of("load.parcels")
    assert [start["eventType"], fail["eventType"]] == ["START", "FAIL"]
    assert "signal 15" in fail["run"]["facets"]["errorMessage"]["message"]
    require_valid(fail)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["hangs", "resets", "refuses", "fails"])
def test_a_collector_that_misbehaves_fails_no_load(site: Site, manner: Manner) -> None:
    """Whatever the collector does, the load ends by itself with its own exit code; the log says what was lost."""
    site.define(PARCELS)
    (site.folder / "a.json").write_text('[{"parcel_id": "P1"}]')
    with collector(manner) as found:
        words = ["--log-format", "json", "load", "parcels", "a.json", "--no-precalculate"]
        ended = site.run(*words, env={"OPENLINEAGE_URL": f"{found.url}/?key=hidden"}, own_process=True)
        assert ended.returncode == 0
        assert found.asked >= (0 if manner == "refuses" else 1)
    assert site.connection.execute("select count(*) from logistics.parcels").fetchone() == (1,)
    assert '"event": "lineage_lost"' in ended.stderr
    assert "hidden" not in ended.stderr


def test_the_configuration_is_looked_for_where_the_client_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables and files switch the events on; one variable switches them off; a home folder may be missing."""
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert not lineage_is_on()
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "console")
    assert lineage_is_on()
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "True")
    assert not lineage_is_on()
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.delenv("OPENLINEAGE__TRANSPORT__TYPE")
    (tmp_path / "openlineage.yml").write_text("transport: {type: console}")
    assert lineage_is_on()
    (tmp_path / "openlineage.yml").unlink()
    monkeypatch.delenv("HOME")
    assert not lineage_is_on()


@pytest.mark.slow
def test_a_load_without_a_configuration_imports_nothing(site: Site) -> None:
    """The client, and the module that would send, are imported only where OpenLineage is configured."""
    site.define(PARCELS)
    (site.folder / "a.json").write_text('[{"parcel_id": "P1"}]')
    program = "import sys; from etl import cli; print(cli.run(['load', 'parcels', 'a.json']), sorted(sys.modules))"
    for variables in ({}, {"OPENLINEAGE_URL": "http://127.0.0.1:1", "OPENLINEAGE_DISABLED": "true"}):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=site.folder,
            env=site.environment(variables),
            capture_output=True,
            text=True,
            check=True,
        )
        line = done.stdout.splitlines()[-1]
        assert line.startswith("0 "), done.stderr
        assert "openlineage" not in line
        assert "etl.lineage" not in line
