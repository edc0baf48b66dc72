"""Events in the service: `etl serve --collect` takes them of operators, and loads them as `etl collect` does."""

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from etl.serving.application import Extras, Limits, Service, application
from etl.serving.gates import Loopback
from etl.serving.identity import ANYONE, Identity
from tests.support.definitions import SMALL_PARCELS
from tests.support.receivers import NOWHERE, receiver_in
from tests.support.services import serving
from tests.support.site import Site
from tests.support.waiting import until

PARCELS = "/v1/events/parcels"
JSON = {"Content-Type": "application/json"}


class Role(Loopback):
    """Lets the header X-Role say who asks."""

    async def identify(self, _scope: Any, headers: Mapping[bytes, bytes]) -> Identity:
        """Return who asks."""
        return Identity(name="analyst", role="analyst") if headers.get(b"x-role") == b"analyst" else ANYONE


def test_events_have_limits_of_their_own(tmp_path: Path) -> None:
    """An operator may send more to the service than other requests have; others, and other pages, may not send."""

    async def asked() -> list[int]:
        with receiver_in(tmp_path) as receiver:
            limits = Limits(connections=1, statement_seconds=1, kept_bytes=0, subscribers=1)
            service = Service(NOWHERE, tmp_path, limits, has_access_log=False, extras=Extras(events=receiver))
            transport = httpx.ASGITransport(application(service, Role()))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                events = [{"parcel_id": f"P{number}", "weight": number} for number in range(1_000)]
                answers = [
                    await client.post(PARCELS, json=events),
                    await client.post(PARCELS, json=events, headers={"X-Role": "analyst"}),
                    await client.post(PARCELS, json=events, headers={"Origin": "https://evil.example"}),
                    await client.post(PARCELS, content=b" " * (2 << 20), headers=JSON),
                    await client.post("/v1/failures/x/replay", json=events),
                    await client.delete(PARCELS),
                ]
                assert answers[0].json()["events"] == 1_000
                assert (answers[0].headers["x-frame-options"], "x-request-id" in answers[0].headers) == ("DENY", True)
                return [answer.status_code for answer in answers]

    assert asyncio.run(asked()) == [202, 403, 403, 413, 413, 405]


@pytest.mark.slow
def test_operators_send_events_to_the_service(site: Site) -> None:
    """An operator sends more than another request may have, by key or token; an analyst and a page elsewhere do not."""
    site.define(SMALL_PARCELS)
    site.run("precalculate")
    (site.folder / "config" / "etl.toml").write_text('[collect]\nspool = "events"\nbody_mb = 1\n')
    keys = {
        role: {"Authorization": f"Bearer {site.run('key', 'create', role, '--role', role, '--json').lines[0]['key']}"}
        for role in ("analyst", "operator")
    }
    with serving(site, "--auth", "keys", "--collect") as service:
        client, operator = service.client, JSON | keys["operator"]
        events = [{"parcel_id": f"P{number}", "weight": number} for number in range(1_000)]
        assert client.post(PARCELS, json=events).status_code == 401
        assert client.post(PARCELS, json=events, headers=keys["analyst"]).status_code == 403
        assert (
            client.post(PARCELS, json=events, headers=operator | {"Origin": "https://evil.example"}).status_code == 403
        )
        assert client.post("/v1/events/none", json=events, headers=operator).status_code == 404
        assert client.post(PARCELS, content=b'{"a": }', headers=operator).json()["byte"] == 6
        assert client.post(PARCELS, content=b" " * (1 << 20) + b"{}", headers=operator).status_code == 413
        assert client.post("/v1/failures/x/replay", content=b" " * 20_000, headers=operator).status_code == 413
        token = client.post("/v1/token", headers=keys["operator"]).json()["access_token"]
        sent = client.post(PARCELS, json=events, headers=JSON | {"Authorization": f"Bearer {token}"})
        assert (sent.status_code, len(sent.content) > 0, sent.headers["x-frame-options"]) == (202, True, "DENY")
        place = f"/v1/events/{sent.json()['stream']}:{sent.json()['offsets'][-1]}"
        until(lambda: client.get(place, headers=operator).json().get("status") == "loaded", "the events")
        assert client.get(place, headers=keys["analyst"]).status_code == 403
        text = client.get("/metrics", headers=operator).text
        assert 'etl_collect_events_accepted_total{dataset="parcels"} 1000' in text
        assert 'etl_serve_request_seconds_count{method="POST",route="/v1/events/{name}",status="202"} 1.0' in text
        second = site.run("--log-format", "json", "serve", "--port", "0", "--collect", own_process=True)
        assert (second.returncode, "another collector writes the spool" in second.stderr) == (6, True)
        client.post(PARCELS, json={"parcel_id": "last"}, headers=operator)
        service.running.process.send_signal(signal.SIGTERM)
        assert service.running.ended().returncode == 0
    assert site.value("select count(*) from logistics.parcels") == 1_001
    assert json.loads(site.run("collect", "--status", "--json").stdout)["loaded_events"] == 1_001


@pytest.mark.slow
def test_a_service_without_events_says_so(site: Site) -> None:
    """Without `--collect` there are no events, and no spool is made."""
    site.run("precalculate")
    with serving(site) as service:
        refused = service.client.post(PARCELS, json=["x" * 100_000])
        assert (refused.status_code, "--collect" in refused.json()["detail"]) == (404, True)
    assert not (site.folder / ".etl" / "spool").exists()
