"""Keys: who has none that is valid gets nothing, and each role gets what it may."""

import json
import re
import time
from collections.abc import Iterator

import psycopg
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from etl.serving.limiting import Rate
from etl.serving.page import ADDRESSES
from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

ROWS = "/v1/aggregates/carrier_scorecard/rows"


def _key(demo: Site, *options: str) -> dict[str, str]:
    [made] = demo.run("key", "create", "a test", "--json", *options).lines
    return dict(made)


def _as(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_each_role_may_do_what_it_may(guarded: RunningService, demo: Site) -> None:
    """Roles by routes: without a key 401, with a key of a lower role 403; probes and the files of the page are open."""
    keys = {role: _key(demo, "--role", role)["key"] for role in ("analyst", "operator", "admin")}
    ok, no, none = 200, 403, 404
    expected = {
        ROWS: (ok, ok, ok),
        "/v1/aggregates": (ok, ok, ok),
        "/v1/aggregates/vehicle_days": (ok, ok, ok),
        "/v1/facts/logistics.shipments?limit=1": (ok, ok, ok),
        "/v1/openapi.json": (ok, ok, ok),
        "/v1/freshness": (ok, ok, ok),
        "/v1/facts": (ok, ok, ok),
        "/v1/lanes/%5B%22DE%22,%22none%22,%22DE%22,%22none%22%5D/similar": (none, none, none),
        "/v1/identity": (ok, ok, ok),
        "/docs": (ok, ok, ok),
        "/v1/runs": (no, ok, ok),
        "/v1/runs/latest": (no, ok, ok),
        "/v1/failures": (no, ok, ok),
        "/v1/failures/none": (no, none, none),
        "/v1/trace/logistics.shipments?shipment_id=none": (no, none, none),
        "/v1/datasets": (no, ok, ok),
        "/v1/events/none": (no, none, none),
        "/v1/streams": (no, ok, ok),
        "/metrics": (no, ok, ok),
    }
    for path, codes in expected.items():
        assert guarded.client.get(path).status_code == 401, path
        got = tuple(guarded.client.get(path, headers=_as(key)).status_code for key in keys.values())
        assert got == codes, path
    for role, key in keys.items():
        assert guarded.client.get("/v1/identity", headers=_as(key)).json()["role"] == role
    described = guarded.client.get("/v1/openapi.json", headers=_as(keys["admin"])).json()["paths"]
    asked = [path.partition("?")[0] for path in expected]
    # Those of the stream, of tokens and of replays have tests of their own.
    others = {"/v1/stream", "/v1/token", "/v1/failures/{id}/replay", "/healthz", "/readyz"}
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) for path in described if path not in others]
    unasked = [
        each for each in patterns if not each.endswith("/rows") and not any(map(re.compile(each).fullmatch, asked))
    ]
    assert unasked == []
    for key, status in ((keys["analyst"], 200), ("none", 401)):
        with guarded.client.stream("GET", "/v1/stream", headers=_as(key)) as stream:
            assert stream.status_code == status
    for path in ("/healthz", "/readyz", *ADDRESSES):
        assert guarded.client.get(path).status_code == 200, path


def test_a_key_that_is_not_valid_is_refused(guarded: RunningService, demo: Site) -> None:
    """A wrong, revoked or expired key gets 401, also where its answer is kept; the log names no key."""
    made = _key(demo)
    key = made["key"]
    for _ in range(2):
        assert guarded.client.get(ROWS, headers=_as(key)).status_code == 200
    assert guarded.client.get(ROWS, headers={"X-Api-Key": key}).status_code == 200
    for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), key.upper(), "x", "%E2", key + " " + key):
        refused = guarded.client.get(ROWS, headers=_as(wrong))
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert "revoked" in demo.run("key", "revoke", made["id"]).stdout
    until(lambda: guarded.client.get(ROWS, headers=_as(key)).status_code == 401, "the key to be refused", 2)
    expired = _key(demo, "--expires", "1h")
    assert guarded.client.get(ROWS, headers=_as(expired["key"])).status_code == 200
    demo.ask("update etl.api_keys set expires_at = now() - interval '1 second' where id = %s", [expired["id"]])
    until(lambda: guarded.client.get(ROWS, headers=_as(expired["key"])).status_code == 401, "the end of the key", 2)
    assert guarded.running.events("access_refused")
    log = guarded.running.stderr()
    assert not [secret for secret in (key, expired["key"], key[14:]) if secret in log]
    until(lambda: f'"who":"key {made["id"]}"' in guarded.running.stderr(), "the line of the access log")


def _received(socket: ClientConnection, seconds: float) -> Iterator[str | bytes]:
    """Yield what comes, and then how it ended."""
    while True:
        try:
            yield socket.recv(timeout=seconds)
        except (ConnectionClosed, TimeoutError) as end:
            yield "closed" if isinstance(end, ConnectionClosed) else "silent"
            return


def test_streams_end_with_their_key(guarded: RunningService, demo: Site) -> None:
    """When a key is revoked, streams that it has opened end, and those of other keys continue."""
    made, other = _key(demo), _key(demo)
    address = f"ws://127.0.0.1:{guarded.client.base_url.port}/v1/stream"
    with (
        guarded.client.stream("GET", "/v1/stream", headers=_as(made["key"])) as ending,
        connect(address, additional_headers=_as(made["key"]), proxy=None) as socket,
        connect(address, additional_headers=_as(other["key"]), proxy=None) as lasting,
    ):
        begun = time.monotonic()
        demo.run("key", "revoke", made["id"])
        for _ in ending.iter_lines():
            assert time.monotonic() < begun + 10
        assert list(_received(socket, 10))[-1] == "closed"
        assert list(_received(lasting, 0.5))[-1] == "silent"
    assert guarded.client.get("/v1/stream", headers=_as(made["key"])).status_code == 401


def test_keys_are_listed_without_the_keys(demo: Site) -> None:
    """The list has name, label, role and state; the database has a digest only."""
    made = _key(demo, "--role", "operator", "--expires", "30d")
    rows = {row["id"]: row for row in demo.run("key", "list", "--json").lines}
    row = rows[made["id"]]
    assert (row["label"], row["role"], row["state"]) == ("a test", "operator", "valid")
    assert made["id"] in demo.run("key", "list").stdout
    stored = json.dumps([str(value) for value in demo.ask("select * from etl.api_keys")])
    assert made["key"] not in stored
    assert made["key"][14:] not in stored
    unknown = demo.run("key", "revoke", "nothing")
    assert (unknown.returncode, "etl key list" in unknown.error) == (2, True)
    assert demo.run("key", "create", "x", "--expires", "soon").returncode == 2


def test_an_analyst_reads_as_the_role_of_analysts(guarded: RunningService, demo: Site) -> None:
    """A right that etl_analyst lacks is missing for a key of an analyst, and not for one of an operator."""
    analyst, operator = _key(demo)["key"], _key(demo, "--role", "operator")["key"]
    path = "/v1/aggregates/open_shipments/rows"
    tag = guarded.client.get(path, headers=_as(analyst)).headers["etag"]
    demo.ask("revoke select on analytics.open_shipments from etl_analyst")
    try:
        assert guarded.client.get(path, headers=_as(operator)).status_code == 200
        refused = guarded.client.get(path, params={"limit": "6"}, headers=_as(analyst))
        assert (refused.status_code, refused.json()["detail"]) == (403, "your role may not read this table")
        conditional = _as(analyst) | {"If-None-Match": tag}
        assert guarded.client.get(path, params={"limit": "7"}, headers=conditional).status_code == 403
    finally:
        demo.ask("grant select on analytics.open_shipments to etl_analyst")
    assert guarded.client.get(path, headers=_as(analyst)).status_code == 200


def test_a_page_of_a_listed_origin_may_read(guarded: RunningService, demo: Site) -> None:
    """A browser gets the headers for a listed origin, and for no other one."""
    key = _key(demo)["key"]
    headers = _as(key) | {"Origin": "https://bi.example.com"}
    got = guarded.client.get(ROWS, headers=headers)
    assert got.headers["access-control-allow-origin"] == "https://bi.example.com"
    assert "ETag" in got.headers["access-control-expose-headers"]
    other = guarded.client.get(ROWS, headers=_as(key) | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    preflight = guarded.client.options(
        ROWS, headers={"Origin": "https://bi.example.com", "Access-Control-Request-Method": "GET"}
    )
    assert (preflight.status_code, "Authorization" in preflight.headers["access-control-allow-headers"]) == (204, True)
    assert demo.run("serve", "--cors-origins", "*").returncode == 2


def test_a_rate_allows_a_burst_and_then_an_average() -> None:
    """A name may ask as often as two seconds allow at once, then at the rate; other names and time are its own."""
    rate = Rate(10)
    assert [rate.wait_of("a", 100.0) for _ in range(20)] == [0.0] * 20
    assert rate.wait_of("a", 100.0) == pytest.approx(0.1)
    assert rate.wait_of("b", 100.0) == 0.0
    assert rate.wait_of("a", 100.11) == 0.0
    assert rate.wait_of("a", 100.11) > 0.0
    assert Rate(0).wait_of("a", 100.0) == 0.0


@pytest.mark.slow
def test_a_key_that_asks_too_often_waits(site: Site) -> None:
    """More requests than the rate allows are 429 with the seconds to wait; another key is not hindered."""
    keys = [_key(site)["key"] for _ in range(2)]
    with serving(site, "--auth", "keys", "--rate-limit", "2") as service:
        answers = [service.client.get("/v1/aggregates", headers=_as(keys[0])) for _ in range(8)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert answers[-1].headers["retry-after"] == "1"
        assert service.client.get("/v1/aggregates", headers=_as(keys[1])).status_code == 200


def test_a_user_without_the_right_to_the_keys_is_named(site: Site) -> None:
    """The service does not start where it could not find a key, and says which right is missing."""
    site.ask("create role served login; grant etl_analyst to served")
    try:
        address = psycopg.conninfo.make_conninfo(site.conninfo, user="served")
        ended = site.run("serve", "--auth", "keys", conninfo=address)
        assert (ended.returncode, "grant select on etl.api_keys to served" in ended.error) == (2, True)
    finally:
        site.ask("drop owned by served; drop role served")
