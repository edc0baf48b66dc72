"""What answers say of their rows, when they are kept, and that none is older than the version that it names."""

import json
import re

import httpx
import psycopg
import pytest

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from tests.support.facts import add
from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

TRIPS = "/v1/aggregates/vehicle_days/rows"


def _change(demo: Site, number: int) -> None:
    """Add a trip, and refresh the aggregate."""
    add(demo.connection, "vehicle_logs", log_id=f"NEW-{number}", trip_date="2031-01-01", vehicle_id="V-NEW")
    (aggregate,) = choose(["vehicle_days"])
    refresh(demo.connection, aggregate, run=None)


def _trips(answer: httpx.Response) -> int:
    return sum(row["count_trips"] for row in answer.json()["rows"])


@pytest.fixture(autouse=True)
def _as_before(demo: Site) -> object:
    """Remove the trips of a test."""
    yield
    if demo.ask("delete from logistics.vehicle_logs where vehicle_id = 'V-NEW' returning 1"):
        (aggregate,) = choose(["vehicle_days"])
        refresh(demo.connection, aggregate, run=None)


def test_an_answer_says_what_it_knows(client: httpx.Client, demo: Site) -> None:
    """Each answer has version, end of the newest load, pending buckets and rejected records, as analytics.freshness."""
    got = client.get(TRIPS, params={"limit": "1"})
    [(version, through, pending, rejected)] = demo.ask(
        "select version, to_json(facts_through) #>> '{}', pending_buckets, rejected_pending"
        " from analytics.freshness where aggregate = 'vehicle_days'"
    )
    assert rejected > 0
    headers = [
        got.headers[name] for name in ("x-version", "x-facts-through", "x-pending-buckets", "x-rejected-waiting")
    ]
    assert headers == [str(version), through, str(pending), str(rejected)]
    assert got.json()["facts_through"] == through
    assert got.headers["etag"].startswith('W/"')
    assert got.headers["last-modified"].endswith("GMT")
    assert got.headers["cache-control"] == "private, no-cache"


def test_no_answer_is_older_than_the_last_refresh(client: httpx.Client, demo: Site) -> None:
    """After each refresh that changed rows the next answer has them; without a change the answer is 304."""
    query = {"vehicle_id": "eq.V-NEW"}
    for number in range(20):
        _change(demo, number)
        first = client.get(TRIPS, params=query)
        assert (first.status_code, _trips(first)) == (200, number + 1)
        again = client.get(TRIPS, params=query, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    tag = client.get(TRIPS, params=query).headers["etag"]
    refresh(demo.connection, choose(["vehicle_days"])[0], run=None, full=True)
    assert client.get(TRIPS, params=query, headers={"If-None-Match": tag}).status_code == 304


def test_a_tag_is_of_one_address_format_and_version(client: httpx.Client, demo: Site) -> None:
    """A tag of JSON is none of CSV, a tag of before a refresh is old, and `*` or a list is compared as the RFC says."""
    tag = client.get(TRIPS, params={"limit": "1"}).headers["etag"]
    csv = client.get(TRIPS, params={"limit": "1"}, headers={"If-None-Match": tag, "Accept": "text/csv"})
    assert csv.status_code == 200
    for text in ("*", f'"other", {tag}', tag.removeprefix("W/")):
        same = client.get(TRIPS, params={"limit": "1"}, headers={"If-None-Match": text})
        assert (same.status_code, same.headers["vary"]) == (304, csv.headers["vary"])
    elsewhere = client.get(TRIPS, params={"source_day": "eq.some"}, headers={"If-None-Match": tag})
    assert (elsewhere.status_code, elsewhere.json()["columns"]) == (422, {"source_day": "date"})
    _change(demo, 100)
    assert client.get(TRIPS, params={"limit": "1"}, headers={"If-None-Match": tag}).status_code == 200


def test_kept_answers_come_without_the_table(demo: Site) -> None:
    """An answer that was sent once comes again while nobody can read its table; another one takes too long."""
    with serving(demo, "--connections", "1", "--statement-timeout", "0.5") as service:
        first = service.client.get(TRIPS, headers={"Accept-Encoding": "identity"})
        with demo.connect() as holder, holder.transaction():
            holder.execute("lock table analytics.vehicle_days in access exclusive mode")
            kept = service.client.get(TRIPS, headers={"Accept-Encoding": "identity"})
            assert (kept.status_code, kept.content) == (200, first.content)
            assert kept.headers["content-type"] == first.headers["content-type"]
            head = service.client.head(TRIPS, headers={"Accept-Encoding": "identity"})
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(first.content))
            late = service.client.get(TRIPS, params={"limit": "3"})
            assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")


def test_while_nothing_is_heard_each_answer_asks_the_database(demo: Site, service: RunningService) -> None:
    """When the sessions of the service are ended, the next answers are right, and later ones are kept again."""
    client = service.client
    assert client.get(TRIPS, params={"limit": "7"}).status_code == 200
    for number in (200, 201):
        ended = demo.value(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where application_name ~ '^etl:serve'"
            " and datname = current_database()"
        )
        assert ended >= 2
        _change(demo, number)
        got = client.get(TRIPS, params={"vehicle_id": "eq.V-NEW"})
        assert (got.status_code, _trips(got)) == (200, number - 199)
    until(lambda: "etl_serve_is_watching 1.0" in client.get("/metrics").text, "the service to watch again")


def test_pending_changes_are_shown(client: httpx.Client, demo: Site) -> None:
    """A change that waits for its refresh is in the header of kept answers soon."""
    add(demo.connection, "vehicle_logs", log_id="NEW-P", trip_date="2031-02-01", vehicle_id="V-NEW")
    until(lambda: client.get(TRIPS).headers["x-pending-buckets"] == "1", "the pending bucket")


def test_an_empty_database_and_row_level_security(site: Site) -> None:
    """What was never computed is no empty list. Rows that a policy hides do not come, and nothing of it is kept.

    With row_security = off, which the role has by default here, the server would refuse each query.
    """
    connection = site.connection
    connection.execute(
        "create role served login; grant etl_analyst to served; alter role served set row_security = off;"
        " alter table analytics.vehicle_days enable row level security;"
        " create policy few on analytics.vehicle_days for select to served using (vehicle_id < 'V3')"
    )
    address = psycopg.conninfo.make_conninfo(site.conninfo, user="served")
    try:
        with serving(site, conninfo=address) as service:
            never = service.client.get(TRIPS, params={"format": "csv"})
            assert (never.status_code, "etl precalculate" in never.json()["detail"]) == (503, True)
            assert never.headers["retry-after"] == "10"
            for vehicle in ("V1", "V2", "V3"):
                add(connection, "vehicle_logs", log_id=vehicle, trip_date="2026-01-01", vehicle_id=vehicle)
            refresh(connection, choose(["vehicle_days"])[0], run=None)
            for hidden, shown in (("V3", ["V1", "V2"]), ("V2", ["V1"])):
                connection.execute(f"alter policy few on analytics.vehicle_days using (vehicle_id < '{hidden}')")
                got = service.client.get(TRIPS, params={"select": "vehicle_id"})
                assert [row["vehicle_id"] for row in got.json()["rows"]] == shown
            assert service.client.get("/v1/runs").status_code == 403
    finally:
        connection.execute("drop owned by served; drop role served")


def test_the_log_has_no_value_of_a_request(service: RunningService) -> None:
    """The access log is JSON with request id, status and path, and without the query string."""
    got = service.client.get(TRIPS, params={"vehicle_id": "eq.SECRET"}, headers={"X-Request-Id": "from-a-proxy"})
    assert got.headers["x-request-id"] == "from-a-proxy"
    lines = until(
        lambda: [line for line in service.running.events("request_served") if line["request_id"] == "from-a-proxy"],
        "the line of the request",
    )
    assert lines[0]["path"] == TRIPS
    assert lines[0]["status"] == 200
    assert "SECRET" not in json.dumps(lines)
    other = service.client.get(TRIPS, headers={"X-Request-Id": "two words"})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", other.headers["x-request-id"])
