"""The process of the service: how it starts, what it takes, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from html.parser import HTMLParser

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from etl.serving.page import ADDRESSES
from tests.support.checkout import ROOT
from tests.support.facts import add
from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

ROWS = "/v1/aggregates/carrier_scorecard/rows"


def test_a_signal_ends_the_service_after_the_requests_in_hand(demo: Site) -> None:
    """After SIGTERM a request in hand is answered, streams end, and the exit code is 0."""
    with serving(demo, "--subscribers", "1") as service, demo.connect() as holder:
        answers: list[int] = []
        with service.client.stream("GET", "/v1/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            busy = httpx.get(f"{service.client.base_url}/v1/stream", trust_env=False)
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
            with holder.transaction():
                holder.execute("lock table analytics.carrier_scorecard in access exclusive mode")
                asking = threading.Thread(target=lambda: answers.append(service.client.get(ROWS).status_code))
                asking.start()
                until(
                    lambda: demo.value(
                        "select exists (select from pg_stat_activity where application_name = 'etl:serve'"
                        " and wait_event_type = 'Lock')"
                    ),
                    "the request in hand",
                )
                service.running.signal(signal.SIGTERM)
                until(lambda: service.running.events("draining"), "the signal to be taken")
            asking.join()
            assert list(lines)[-1] == ""
        ended = service.running.ended()
    assert (answers, ended.returncode) == ([200], 0)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--host", "0.0.0.0"], 2, "for this machine only"),  # noqa: S104 - it is refused
        (["--port", "TAKEN"], 2, "cannot listen on 127.0.0.1"),
        (["--host", "no such host"], 2, "for this machine only"),
    ],
)
def test_a_service_that_cannot_start_says_why(demo: Site, options: list[str], code: int, reason: str) -> None:
    """Without keys only this machine is served; an address in use is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [str(taken.getsockname()[1]) if word == "TAKEN" else word for word in options]
        ended = demo.run("serve", *words)
    assert (ended.returncode, reason in ended.error) == (code, True)


def test_the_loader_needs_nothing_of_the_service() -> None:
    """Without the packages of the extra, commands run; `serve` names the package and the extra, and is exit code 2."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('fastapi', 'uvicorn', 'uvloop', 'psycopg_pool', 'jwt')));"
        "from etl.cli import run; sys.exit(run(sys.argv[1:]))"
    )

    def done(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "--database", "postgresql://x@127.0.0.1:1/x", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    refused = done("serve")
    assert (refused.returncode, "extra `serve`" in refused.stderr) == (2, True), refused.stderr
    assert done("dataset", "list").returncode == 0
    assert done("key", "list").returncode == 4


def test_a_database_that_is_not_migrated_or_away_is_no_service(demo: Site) -> None:
    """The exit codes are those of all commands: 2 with the command that helps, 4 when the server is away."""
    ended = demo.run("serve", conninfo=str(demo.conninfo).replace("dbname=serving", "dbname=postgres"))
    assert (ended.returncode, "etl db migrate" in ended.error) == (2, True)
    ended = demo.run("serve", conninfo="postgresql://nobody@127.0.0.1:1/none")
    assert ended.returncode == 4


def test_settings_of_the_service_come_from_the_file_and_the_environment(demo: Site) -> None:
    """The table [serve] of etl.toml sets options of `serve`; a variable beats it."""
    path = demo.folder / "config" / "etl.toml"
    path.parent.mkdir(exist_ok=True)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    path.write_text(f'[serve]\nhost = "0.0.0.0"\nport = {port}\n', encoding="utf-8")
    try:
        assert "for this machine only" in demo.run("serve").error
        ended = demo.run("serve", env={"ETL_SERVE_HOST": "127.0.0.1"})
        assert f"cannot listen on 127.0.0.1:{port}" in ended.error
        path.write_text("[serve]\nprot = 1\n", encoding="utf-8")
        assert "prot" in demo.run("serve").error
    finally:
        taken.close()
        path.unlink()


def test_subscribers_get_each_refresh_that_changed_rows(service: RunningService, demo: Site) -> None:
    """A subscriber gets the state of all aggregates at once, then the aggregate whose rows changed."""
    (aggregate,) = choose(["vehicle_days"])
    with service.client.stream("GET", "/v1/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        names = {
            json.loads(next(line for line in lines if line.startswith("data: "))[6:])["aggregate"]
            for _ in range(demo.value("select count(*) from analytics.freshness"))
        }
        assert "vehicle_days" in names
        refresh(demo.connection, aggregate, run=None, full=True)  # It changes nothing, and nobody gets it.
        add(demo.connection, "vehicle_logs", log_id="LIVE", trip_date="2032-01-01", vehicle_id="V-LIVE")
        refresh(demo.connection, aggregate, run=None)
        assert next(line for line in lines if line.startswith("event: ")) == "event: refresh"
        event = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    version = demo.value("select version from analytics.freshness where aggregate = 'vehicle_days'")
    assert (event["aggregate"], event["version"]) == ("vehicle_days", version)
    demo.ask("delete from logistics.vehicle_logs where log_id = 'LIVE'")
    refresh(demo.connection, aggregate, run=None)


def test_a_socket_gets_the_same_events(service: RunningService, demo: Site) -> None:
    """Over a WebSocket come the same events as JSON; a page of another origin cannot open one."""
    (aggregate,) = choose(["vehicle_days"])
    url = str(service.client.base_url).replace("http", "ws") + "/v1/stream"
    with pytest.raises(InvalidStatus), connect(url, origin=Origin("https://evil.example"), proxy=None):
        pass
    with connect(url, proxy=None) as connected:
        count = demo.value("select count(*) from analytics.freshness")
        states = [json.loads(connected.recv(timeout=10)) for _ in range(count)]
        assert {state["event"] for state in states} == {"state"}
        add(demo.connection, "vehicle_logs", log_id="LIVE", trip_date="2032-01-01", vehicle_id="V-LIVE")
        refresh(demo.connection, aggregate, run=None)
        event = json.loads(connected.recv(timeout=10))
    assert (event["event"], event["aggregate"]) == ("refresh", "vehicle_days")
    demo.ask("delete from logistics.vehicle_logs where log_id = 'LIVE'")
    refresh(demo.connection, aggregate, run=None)


def test_what_is_too_large_or_foreign_is_refused(client: httpx.Client) -> None:
    """Long addresses, bodies, other hosts and other methods are problems; the service continues."""
    assert client.get(f"{ROWS}?carrier=eq.{'x' * 9_000}").status_code == 414
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw, suppress(OSError):
        raw.sendall(
            b"GET " + ROWS.encode() + b"?carrier=eq." + b"x" * 10_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        assert re.match(rb"HTTP/1.1 4(00|14)|$", raw.recv(1_000))
    assert client.request("GET", ROWS, content=b"x" * 20_000).status_code == 413
    for name in ("evil.example", "127.evil.example", "localhost.evil.example:80", "127.0.0.1@evil.example", "0.0.0.0"):  # noqa: S104
        foreign = client.get(ROWS, headers={"Host": name})
        assert (foreign.status_code, foreign.headers["content-type"]) == (403, "application/problem+json"), name
    for name in ("localhost:8080", "LOCALHOST", "127.0.0.2", "[::1]:8080"):
        assert client.get(ROWS, headers={"Host": name}).status_code == 200, name
    assert client.post(ROWS).status_code == 405
    assert client.get("/v1/nothing").json()["status"] == 404
    assert client.get("/healthz").status_code == 200


def test_head_is_the_head_of_get(client: httpx.Client) -> None:
    """HEAD has the status and the headers of GET at each address, and no body; that of the stream ends at once."""
    for path in (
        "/v1/aggregates",
        "/v1/aggregates/vehicle_days",
        "/v1/runs",
        "/v1/freshness",
        "/v1/none",
        "/docs",
        ROWS,
    ):
        head, got = (
            client.request(method, path, headers={"Accept-Encoding": "identity"}) for method in ("HEAD", "GET")
        )
        assert (head.status_code, head.content) == (got.status_code, b""), path
        for name in ("content-length", "content-type", "etag"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
    stream = client.head("/v1/stream", timeout=5)
    assert (stream.status_code, stream.headers["content-type"][:17]) == (200, "text/event-stream")
    assert client.post("/v1/runs").headers["allow"] == "GET, HEAD"


def test_every_answer_has_the_headers_of_safety(client: httpx.Client) -> None:
    """Pages, problems and data have them alike."""
    for path in ("/", "/docs", ROWS, "/nothing", "/healthz"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


class _Links(HTMLParser):
    """The addresses that a page loads or names."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.named: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href"} and value:
                (self.named if tag == "a" else self.loaded).append(value)
            assert name != "style"
            assert not name.startswith("on")


def test_the_description_needs_no_script_and_nothing_from_elsewhere(client: httpx.Client) -> None:
    """It names each aggregate, loads files of this service only, and each of its links leads somewhere."""
    got = client.get("/docs")
    page = _Links()
    page.feed(got.text)
    assert "script" not in page.tags
    assert "carrier_scorecard" in got.text
    assert page.loaded == ["/static/style.css"]
    for address in {"/static/style.css", *(name for name in page.named if not name.startswith("#"))}:
        assert client.get(address).status_code == 200, address
    anchors = set(re.findall(r'<section id="([^"]+)"', got.text))
    assert {name[1:] for name in page.named if name.startswith("#")} == anchors


def test_the_page_loads_its_own_files_only(client: httpx.Client) -> None:
    """The page has no script and no style of its own text, and its policy allows none; all is at most 70 kB."""
    got = client.get("/")
    page = _Links()
    page.feed(got.text)
    assert sorted(page.loaded) == sorted(set(ADDRESSES) - {"/"})
    assert re.findall(r"<(?:script|style)\b[^>]*>(?!</)", got.text) == []
    [policy] = got.headers.get_list("content-security-policy")  # a browser obeys all that there are
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    )
    assert "unsafe" not in policy
    size = 0
    for address in ADDRESSES:
        file = client.get(address)
        assert file.headers["content-encoding"] == "gzip"
        size += int(file.headers["content-length"])
        assert client.get(address, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
        assert client.get(address, headers={"Accept-Encoding": "identity"}).content == file.content
    assert size < 75_000


def test_metrics_count_requests_by_route(client: httpx.Client) -> None:
    """The labels have the pattern of an address, and no value of a request."""
    client.get(ROWS, params={"carrier": "eq.SECRET"})
    client.get("/v1/runs/SECRET")
    text = client.get("/metrics").text
    assert 'route="/v1/aggregates/{name}/rows",status="200"' in text
    assert 'route="/v1/runs/{run}",status="404"' in text
    assert "etl_serve_connections " in text
    assert "SECRET" not in text


def test_the_description_is_the_one_in_the_repository(client: httpx.Client) -> None:
    """docs/reference/openapi.json is what the service says."""
    document = client.get("/v1/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert document == json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text(encoding="utf-8"))
    rows = document["components"]["schemas"]["carrier_scorecard_row"]["properties"]
    assert rows["on_time_share"]["type"] == ["number", "null"]
    assert rows["month"]["format"] == "date"
