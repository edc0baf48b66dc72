"""What operators ask over HTTP: runs, failures, datasets, and the record that a row came from."""

import json

import httpx

from tests.support.site import Site


def test_runs_and_failures_are_those_of_the_commands(client: httpx.Client, demo: Site) -> None:
    """The routes give what `etl runs list`, `etl runs show` and `etl failed list` give."""
    listed = [json.loads(line) for line in demo.run("runs", "list", "--json").stdout.splitlines()]
    got = client.get("/v1/runs").json()
    assert [run["run"] for run in got["runs"]] == [run["run"] for run in listed]
    assert got["more"] is False
    assert client.get("/v1/runs", params={"limit": "1"}).json()["more"] is True
    few = client.get("/v1/runs", params={"dataset": "shipments", "status": "loaded_with_rejects"}).json()["runs"]
    [run] = few
    shown = client.get(f"/v1/runs/{run['run']}").json()
    assert (shown["run"], len(shown["attempts"])) == (run, 1)
    assert sum(fault["count_records"] for fault in shown["faults"]) == run["rejected"] > 0
    assert client.get("/v1/runs/latest").json()["run"]["dataset"] == "shipments"
    failures = client.get("/v1/failures", params={"run": run["run"]}).json()["failures"]
    assert sum(failure["count_records"] for failure in failures) == run["pending"]


def test_no_route_gives_the_content_of_a_record(client: httpx.Client, demo: Site) -> None:
    """No text of a refused record is in any answer for operators."""
    lines = [line for path in demo.store.rglob("*.ndjson") for line in path.read_text().splitlines()]
    assert lines
    [*_, run] = client.get("/v1/runs", params={"dataset": "shipments"}).json()["runs"]
    paths = ("/v1/runs", f"/v1/runs/{run['run']}", "/v1/failures", "/v1/datasets")
    texts = "".join(client.get(path).text for path in paths)
    keys = {json.loads(line).get("shipment_id") for line in lines} - {None}
    assert keys
    assert not [key for key in keys if key in texts]


def test_a_row_is_traced_to_its_record(client: httpx.Client, demo: Site) -> None:
    """The answer has source, number and byte of the record, and not its text."""
    [(key, _)] = demo.ask("select shipment_id, etl_place from logistics.shipments order by etl_place desc limit 1")
    got = client.get("/v1/trace/logistics.shipments", params={"shipment_id": key}).json()
    [record] = got["records"]
    assert record["source"] == "shipments.json"
    data = (demo.folder / "shipments.json").read_bytes()[record["offset"] :]
    assert f'"{key}"'.encode() in data[:200]
    assert "text" not in record
    assert client.get("/v1/trace/logistics.shipments", params={"shipment_id": "none"}).status_code == 404
    assert client.get("/v1/trace/logistics.shipments").status_code == 422
    for wrong in ("nothing=x", "=x", "%00=x", "shipment_id=%00", "%ff=x", '"=x', "etl_run=x", "a.b=x"):
        assert client.get(f"/v1/trace/logistics.shipments?{wrong}").status_code == 422, wrong
    unknown = client.get("/v1/trace/etl.runs", params={"run": "x"})
    assert (unknown.status_code, "logistics.shipments" in unknown.json()["tables"]) == (404, True)


def test_datasets_are_listed_with_their_tables(client: httpx.Client) -> None:
    """Each dataset of the installation has its mode, its key and the columns of its tables."""
    found = {each["name"]: each for each in client.get("/v1/datasets").json()["datasets"]}
    assert found["shipments"]["key"] == ["shipment_id"]
    columns = [column["name"] for column in found["shipments"]["tables"][0]["columns"]]
    assert "carrier" in columns


def test_a_wrong_parameter_is_a_problem(client: httpx.Client) -> None:
    """The problem names the parameter and the reason."""
    for path in ("/v1/runs?limit=0", "/v1/runs?status=lost", "/v1/runs?since=soon", "/v1/failures?state=x"):
        got = client.get(path)
        assert (got.status_code, got.headers["content-type"]) == (422, "application/problem+json"), path
        assert got.json()["parameters"][0]["parameter"] in path
    assert client.get("/v1/runs/none").status_code == 404
    assert client.get("/v1/runs?dataset=%00").status_code == 422


def test_freshness_is_that_of_the_view(client: httpx.Client, demo: Site) -> None:
    """Each aggregate has the version and the times of analytics.freshness."""
    rows = {row["aggregate"]: row for row in client.get("/v1/freshness").json()["freshness"]}
    expected = dict(demo.ask("select aggregate, version from analytics.freshness"))
    assert {name: row["version"] for name, row in rows.items()} == expected
    entries = client.get("/v1/aggregates").json()["aggregates"]
    assert {entry["name"]: entry["version"] for entry in entries} == expected
    entry = client.get("/v1/aggregates/vehicle_days").json()
    assert entry["key"] == ["source_day", "vehicle_id"]
    units = {column["name"]: column["unit"] for column in entry["columns"]}
    assert units["sum_distance_km"].startswith("km")
