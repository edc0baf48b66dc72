"""The service in trouble: the database away, all connections in use, clients that send anything or read slowly."""

import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.embedded import Server
from tests.support.relays import Relay
from tests.support.services import serving
from tests.support.site import Site
from tests.support.waiting import until

Trouble = Callable[[Relay], AbstractContextManager[None]]

ROWS = "/v1/aggregates/carrier_scorecard/rows"
PATHS = (
    ROWS,
    "/v1/aggregates/vehicle_days/rows",
    "/v1/aggregates/NAME",
    "/v1/runs",
    "/v1/runs/NAME",
    "/v1/failures",
    "/v1/trace/logistics.shipments",
    "/v1/trace/NAME",
    "/v1/freshness",
    "/NAME",
)
WORDS = ("select", "order", "limit", "after", "format", "numbers", "for", "month", "carrier", "dataset", "since", "run")
VALUES = ("eq.", "in.(", "in.()", "is.null", "not.", "gte.2024-01-01", "0", "-1", "1e9", "'", '"', "%", "\\", "csv", "")


@given(
    path=st.sampled_from(PATHS),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    pairs=st.lists(
        st.tuples(st.sampled_from(WORDS), st.sampled_from(VALUES) | st.text(max_size=12)).map(
            lambda pair: (pair[0], "".join(letter for letter in pair[1] if not "\ud800" <= letter <= "\udfff"))
        ),
        max_size=4,
    ),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_is_answered_or_is_a_problem(
    client: httpx.Client, path: str, name: str, pairs: list[tuple[str, str]]
) -> None:
    """No request is a fault of the service; each refusal is a problem document."""
    got = client.get(path.replace("NAME", quote(name, safe="")), params=[*pairs])
    assert got.status_code in {200, 404, 422}, (got.request.url, got.text)
    if got.status_code != 200:
        assert got.headers["content-type"] == "application/problem+json"
        assert got.json()["status"] == got.status_code


@pytest.mark.slow
def test_all_connections_in_use_is_a_problem_for_a_while(demo: Site) -> None:
    """A request that gets no connection in time is 503 with the seconds to wait; the one that has it is answered."""
    with serving(demo, "--connections", "1", "--statement-timeout", "60") as service, demo.connect() as holder:
        answers: list[int] = []
        with holder.transaction():
            holder.execute("lock table analytics.carrier_scorecard in access exclusive mode")
            asking = threading.Thread(target=lambda: answers.append(service.client.get(ROWS).status_code))
            asking.start()
            waiting = "select exists (select from pg_stat_activity where application_name = 'etl:serve'"
            until(lambda: demo.value(f"{waiting} and wait_event_type = 'Lock')"), "the request that waits")
            busy = service.client.get("/v1/aggregates/vehicle_days/rows")
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
            assert service.client.get("/healthz").status_code == 200
        asking.join()
        assert answers == [200]
        assert service.client.get(ROWS).status_code == 200


@pytest.mark.slow
def test_a_restart_of_the_database_is_over_when_it_is_over(tmp_path: Path) -> None:
    """While the server is down answers are 503 and never old ones; after it is back they are right again."""
    site = Site("embedded:", tmp_path)
    site.run("generate", "vehicle_logs", "--records", "500", "--output", "trips.json")
    site.run("load", "vehicle_logs", "trips.json")
    path = "/v1/aggregates/vehicle_days/rows"
    try:
        with serving(site) as service:
            before = service.client.get(path)
            assert before.status_code == 200
            server = Server(tmp_path / ".etl" / "postgres")
            postmaster = psutil.Process(int((tmp_path / ".etl/postgres/data/postmaster.pid").read_text().split()[0]))
            for _ in range(2):
                postmaster.send_signal(signal.SIGKILL)
                postmaster.wait(30)
                assert service.client.get(path).status_code in {200, 503}
                until(lambda: service.client.get(path).status_code == 200, "the service", 60, pause=0.2)
                assert service.client.get(path).content == before.content
                pid = (tmp_path / ".etl/postgres/data/postmaster.pid").read_text().split()[0]
                postmaster = psutil.Process(int(pid))
            assert server.exists()
            service.running.signal(signal.SIGTERM)
            assert service.running.ended().returncode == 0
    finally:
        site.close()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [Relay.away, Relay.black_hole])
def test_a_database_that_is_away_for_a_minute(demo: Site, trouble: Trouble) -> None:
    """Each request is answered in time, no answer is an old one; afterwards the service is as before."""
    relay = Relay(demo.conninfo)
    path = "/v1/aggregates/vehicle_days/rows?vehicle_id=eq.V-AWAY"
    answers: set[int] = set()
    try:
        with serving(demo, conninfo=relay.conninfo) as service:
            kept = service.client.get(path)
            assert (kept.status_code, kept.json()["rows"]) == (200, [])
            with trouble(relay):
                demo.ask(
                    "insert into logistics.vehicle_logs (log_id, trip_date, vehicle_id, etl_run, etl_batch, etl_place)"
                    " values ('AWAY', '2033-02-01', 'V-AWAY', 1, 0, 1)"
                )
                demo.run("precalculate", "vehicle_days")
                assert service.client.get("/v1/runs").status_code == 503
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    got = service.client.get(path, headers={"If-None-Match": kept.headers["etag"]})
                    answers.add(got.status_code)
                    assert service.client.get("/healthz").status_code == 200
                    time.sleep(0.2)
            until(lambda: service.client.get("/readyz").status_code == 200, "the service", 30, pause=0.2)
            rows = service.client.get(path, headers={"If-None-Match": kept.headers["etag"]}).json()["rows"]
            assert [row["count_trips"] for row in rows] == [1]
            assert answers == {503}
    finally:
        relay.close()
        demo.ask("delete from logistics.vehicle_logs where vehicle_id = 'V-AWAY'")
        demo.run("precalculate", "vehicle_days")


@pytest.mark.slow
def test_clients_that_do_not_read_cost_little_memory(demo: Site) -> None:
    """Two hundred clients that ask for a large page and do not read it share the page in memory."""
    with serving(demo) as service:
        path = "/v1/aggregates/daily_shipments/rows?limit=10000"
        size = len(service.client.get(path, headers={"Accept-Encoding": "identity"}).content)
        process = psutil.Process(service.running.process.pid)
        before = process.memory_info().rss
        address = (service.client.base_url.host, service.client.base_url.port or 0)
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()
        clients = [socket.create_connection(address) for _ in range(200)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(request)
        until(lambda: service.client.get("/healthz").status_code == 200, "the service")
        grown = process.memory_info().rss - before
        assert grown < max(200 * (1 << 19), 50 * size), (grown, size)
        for client in clients:
            client.close()


@pytest.mark.slow
def test_answers_are_the_rows_of_their_version_while_rows_change(demo: Site) -> None:
    """Beside refreshes each answer has the rows of the version that it names, and no 304 names an old one."""
    seen: dict[str, str] = {}
    wrong: list[str] = []
    stop = threading.Event()

    def ask(client: httpx.Client) -> None:
        tag = ""
        while not stop.is_set():
            got = client.get(
                "/v1/aggregates/vehicle_days/rows", params={"vehicle_id": "eq.V-RACE"}, headers={"If-None-Match": tag}
            )
            if got.status_code == 200:
                tag = got.headers["etag"]
                text = str(got.json()["rows"])
                if seen.setdefault(got.headers["x-version"], text) != text:
                    wrong.append(got.headers["x-version"])
            elif got.status_code != 304:
                wrong.append(str(got.status_code))

    with serving(demo) as service:
        askers = [threading.Thread(target=ask, args=(service.client,)) for _ in range(4)]
        for asker in askers:
            asker.start()
        for number in range(25):
            demo.ask(
                "insert into logistics.vehicle_logs (log_id, trip_date, vehicle_id, etl_run, etl_batch, etl_place)"
                " values (%s, '2033-01-01', 'V-RACE', 1, 0, 1)",
                [f"RACE-{number}"],
            )
            assert demo.run("precalculate", "vehicle_days", own_process=False).returncode == 0
            got = service.client.get("/v1/aggregates/vehicle_days/rows", params={"vehicle_id": "eq.V-RACE"})
            assert got.json()["rows"][0]["count_trips"] == number + 1
            time.sleep(random.random() / 20)
        stop.set()
        for asker in askers:
            asker.join()
    demo.ask("delete from logistics.vehicle_logs where vehicle_id = 'V-RACE'")
    demo.run("precalculate", "vehicle_days")
    assert wrong == []
    assert len(seen) > 5
