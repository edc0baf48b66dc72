"""The lists for operators: pages that follow each other without a gap, and filters as for rows."""

from typing import Any

import httpx
import pytest

from tests.support.site import Site

Pages = list[dict[str, Any]]


def _all(client: httpx.Client, path: str, member: str, **query: str) -> Pages:
    """Return the entries of all pages, which `Link` and `next` lead to alike."""
    entries: Pages = []
    address: str | None = str(httpx.URL(path, params=query))
    while address is not None:
        got = client.get(address)
        assert got.status_code == 200, got.text
        page = got.json()
        entries += page[member]
        assert page["more"] is (page["next"] is not None)
        address = got.links["next"]["url"] if "next" in got.links else None
        assert (address is not None) is page["more"]
        assert address is None or page["next"] in address
    return entries


@pytest.fixture(scope="module")
def _many(demo: Site) -> Any:
    """Add runs and files of a dataset of their own, two files at each instant, and remove them afterwards."""
    demo.ask(
        "insert into etl.runs (run, dataset, source, mode, definition_hash, is_atomic, is_forced, started_at)"
        " select 'MANY-' || n, 'many', 's', 'append', '', false, false,"
        " '2026-01-01'::timestamptz + n * interval '1 day' from generate_series(1, 7) n"
    )
    demo.ask(
        "insert into etl.failures (id, run, dataset, source, batch, kind, state, created_at, sha256, count_records)"
        " select 'many-' || n, 'MANY-1', 'many', 's', n, case when n = 1 then 'failed' else 'rejected' end,"
        " case when n = 2 then 'discarded' else 'pending' end,"
        " '2026-01-01'::timestamptz + (n / 2) * interval '1 microsecond', '', 1 from generate_series(1, 7) n"
    )
    yield
    demo.ask("delete from etl.failures where dataset = 'many'; delete from etl.runs where dataset = 'many'")


@pytest.mark.usefixtures("_many")
def test_pages_have_each_entry_once(client: httpx.Client, demo: Site) -> None:
    """Pages of any size together are the whole list in its order, also where a run is removed in between."""
    runs = demo.column("select run from etl.runs order by number desc")
    files = demo.column("select id from etl.failures order by created_at, id")
    assert [run["run"] for run in _all(client, "/v1/runs", "runs", limit="2")] == runs
    assert [file["id"] for file in _all(client, "/v1/failures", "failures", limit="3")] == files
    first = client.get("/v1/runs", params={"dataset": "many", "limit": "2"}).json()
    demo.ask("delete from etl.runs where run = %s", [first["runs"][-1]["run"]])
    rest = client.get("/v1/runs", params={"dataset": "many", "after": first["next"]}).json()
    assert ([run["run"] for run in rest["runs"]], rest["next"]) == ([f"MANY-{n}" for n in (5, 4, 3, 2, 1)], None)


@pytest.mark.usefixtures("_many")
@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("failures", "dataset=many&state=pending", "134567"),
        ("failures", "dataset=eq.many&state=neq.pending", "2"),
        ("failures", "run=MANY-1&kind=in.(failed)", "1"),
        ("failures", "id=like.many-*&id=not.in.(many-1,many-2)", "34567"),
        ("failures", "dataset=many&created_at=lte.2026-01-01T00:00:00.000001Z", "123"),
        ("failures", "dataset=many&sqlstate=is.not_null", ""),
        ("runs", "dataset=ilike.MAN*&started_at=lt.2026-01-04", "21"),
        ("runs", "dataset=many&since=2026-01-07T12:00:00", "7"),
        ("runs", "dataset=many&status=not.in.(loaded,died)", ""),
        ("runs", "dataset=many&status=died&run=in.(MANY-7,MANY-5)&mode=append", "75"),
    ],
)
def test_filters_are_those_of_rows(client: httpx.Client, path: str, query: str, expected: str) -> None:
    """Operators mean what they mean for rows; a value without one must be equal."""
    found = client.get(f"/v1/{path}?{query}")
    assert found.status_code == 200, found.text
    names = "".join(entry["run" if path == "runs" else "id"][-1] for entry in found.json()[path])
    assert names == expected


@pytest.mark.parametrize(
    "query",
    [
        *("runs?datset=x", "runs?limit=1001", "runs?limit=0", "runs?limit=1&limit=1", "runs?status=in.(loaded,lost)"),
        *(
            "runs?started_at=gte.soon",
            "runs?since=gte.2026-01-01",
            "runs?after=x",
            "runs?select=run",
            "runs/latest?x=1",
        ),
        *("failures?state=eq.x", "failures?created_at=2026-13-01", "failures?after=WzEsMiwzXQ", "failures?order=id"),
        *("freshness?aggregate=x", "aggregates?name=x", "aggregates/vehicle_days?select=x", "datasets?name=x"),
    ],
)
def test_what_is_no_parameter_is_a_problem(client: httpx.Client, query: str) -> None:
    """A wrong name, value, limit or token is 422 and never passed over."""
    got = client.get(f"/v1/{query}")
    assert (got.status_code, got.headers["content-type"]) == (422, "application/problem+json"), got.text
    assert len(got.json()["detail"]) > 10


def test_a_token_is_of_one_list(client: httpx.Client) -> None:
    """A token of runs is none of files, and a token with a wrong key is none."""
    token = client.get("/v1/runs?limit=1").json()["next"]
    assert client.get("/v1/failures", params={"after": token}).status_code == 422
    assert client.get("/v1/runs", params={"after": token}).status_code == 200
    for wrong in ("WyJydW5zIix0cnVlLFsieCJdXQ", "WyJmYWlsdXJlcyIsZmFsc2UsWyJzb29uIiwieCJdXQ"):
        for path in ("runs", "failures"):
            assert client.get(f"/v1/{path}", params={"after": wrong}).status_code == 422, wrong
