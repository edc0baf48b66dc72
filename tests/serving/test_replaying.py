"""Replay over HTTP: who may ask for it, what it does, and how it ends."""

import json
import signal
from typing import Any

import httpx
import pytest

from etl.ingestion.ledger import locks
from tests.support.services import RunningService, serving
from tests.support.site import Site
from tests.support.waiting import until

DAYS = "/v1/aggregates/vehicle_days/rows"


def _headers(demo: Site, role: str) -> dict[str, str]:
    [made] = demo.run("key", "create", "replays", "--role", role, "--json").lines
    return {"Authorization": f"Bearer {made['key']}"}


def _ended(client: httpx.Client, address: str, headers: dict[str, str]) -> dict[str, Any]:
    """Wait for the end of a replay, and return what its address says then."""
    shown: list[dict[str, Any]] = []

    def has_ended() -> bool:
        shown.append(client.get(address, headers=headers).json())
        return bool(shown[-1]["replay"]["state"] != "running")

    until(has_ended, "the end of the replay")
    return shown[-1]


def test_an_operator_replays_a_corrected_file(guarded: RunningService, demo: Site) -> None:
    """The answer comes while it runs, and others are answered; the result is that of `etl failed replay`."""
    [failure] = [name for name in demo.failures.waiting() if demo.failures.details(name)["dataset"] == "vehicle_logs"]
    demo.failures.edit(failure, ('"distance_km":-12.5', '"distance_km":12.5'))
    address, operator = f"/v1/failures/{failure}", _headers(demo, "operator")
    assert guarded.client.get(address, headers=operator).json()["failure"]["state"] == "pending"

    def asked(**options: Any) -> httpx.Response:
        return guarded.client.post(f"{address}/replay", headers=operator, **options)

    assert asked(content=b"x").status_code == 422
    [(run,)] = demo.ask("select run from etl.failures where id = %s", [failure])
    with demo.connect() as holder:
        locks.hold_run(holder, run)
        busy = asked()
        assert (busy.status_code, "holds the source" in busy.json()["detail"]) == (409, True)
    demo.wait_for_locks()
    with demo.connect() as holder, holder.transaction():
        holder.execute("lock table logistics.vehicle_logs in share mode")
        begun = asked()
        assert (begun.status_code, begun.headers["location"], begun.json()["replay"]["state"]) == (
            202,
            address,
            "running",
        )
        assert guarded.client.get(DAYS, headers=operator).status_code == 200
        again = asked()
        assert (again.status_code, again.headers["retry-after"]) == (409, "5")
    shown = _ended(guarded.client, address, operator)
    assert (shown["failure"]["state"], shown["replay"]["state"], shown["replay"]["problem"]) == (
        "replayed",
        "done",
        None,
    )
    assert (shown["replay"]["loaded"], shown["replay"]["rejected"]) == (1, 5)
    assert shown["waiting"] == shown["replay"]["stored"] == [demo.failures.waiting()[-1]]
    assert demo.value("select distance_km from logistics.vehicle_logs where log_id = 'LOG-0000623'") == 12.5
    late = demo.value("select pending_buckets from analytics.freshness where aggregate = 'vehicle_days'")
    assert late == 0
    assert asked().status_code == 409
    events = [event for event in guarded.running.events("replay_ended") if event["failure"] == failure]
    assert [(event["loaded"], event["refused"], event["who"][:4]) for event in events] == [(1, 5, "key ")]


def test_who_may_not_replay_replays_nothing(guarded: RunningService, client: httpx.Client, demo: Site) -> None:
    """No key, the role of analysts, a page of elsewhere, an unknown file, and a service that does not replay."""
    failure = demo.failures.waiting()[0]
    path = f"/v1/failures/{failure}/replay"
    roles = {role: _headers(demo, role) for role in ("analyst", "operator", "admin")}
    assert guarded.client.post(path).status_code == 401
    assert guarded.client.post(path, headers=roles["analyst"]).status_code == 403
    for role in ("operator", "admin"):
        for name, status in (("none", 404), ("%00", 422), ("x" * 500, 404)):
            got = guarded.client.post(f"/v1/failures/{name}/replay", headers=roles[role])
            assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json"), name
            assert guarded.client.get(f"/v1/failures/{name}", headers=roles[role]).status_code == status
        foreign = guarded.client.post(path, headers=roles[role] | {"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert guarded.client.get(f"{path}", headers=roles[role]).status_code == 405
    refused = client.post(path)
    assert (refused.status_code, "--allow-replay" in refused.json()["detail"]) == (403, True)
    assert client.post(path, headers={"Origin": "https://evil.example"}).status_code == 403
    assert demo.value("select state from etl.failures where id = %s", [failure]) == "pending"
    log = guarded.running.stderr()
    assert not [value for value in roles.values() if value["Authorization"].split()[1] in log]


def test_a_file_that_cannot_be_replayed_says_why(guarded: RunningService, demo: Site) -> None:
    """A file that lacks a line is refused before anything begins, and still waits."""
    failure = demo.failures.waiting()[0]
    path = demo.failures.path(failure)
    before = path.read_text()
    path.write_text(before.split("\n", 1)[1])
    try:
        got = guarded.client.post(f"/v1/failures/{failure}/replay", headers=_headers(demo, "admin"))
    finally:
        path.write_text(before)
    assert (got.status_code, "one per line" in got.json()["detail"]) == (422, True)
    assert not [line for line in before.splitlines() if line in json.dumps(got.json())]
    assert demo.value("select state from etl.failures where id = %s", [failure]) == "pending"


@pytest.mark.slow
def test_a_signal_ends_the_service_after_the_file_in_hand(demo: Site) -> None:
    """After SIGTERM the records in hand are loaded or refused, the exit code is 0, and the aggregates may wait."""
    [failure] = [name for name in demo.failures.waiting() if demo.failures.details(name)["dataset"] == "vehicle_logs"]
    with serving(demo, "--allow-replay") as service:
        with demo.connect() as holder, holder.transaction():
            holder.execute("lock table etl.batches in exclusive mode")
            assert service.client.post(f"/v1/failures/{failure}/replay").status_code == 202
            waiting = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = %s)"
            until(lambda: demo.value(waiting, [holder.info.dbname]), "the replay")
            service.running.signal(signal.SIGTERM)
            until(lambda: service.running.events("draining"), "the signal to be taken")
        ended = service.running.ended()
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert demo.value("select state from etl.failures where id = %s", [failure]) == "replayed"
    assert '"event": "replay_ended"' in ended.stderr
    demo.run("precalculate")
