"""The example alerts and the dashboards of service and collector use metrics that these have."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.checkout import ROOT
from tests.support.receivers import receiver_in

MONITORING = ROOT / "config" / "monitoring"


def _of_alerts(name: str) -> Iterator[str]:
    [group] = yaml.safe_load((MONITORING / f"{name}-alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        assert {"summary", "description"} <= set(rule["annotations"])
        yield rule["expr"]


def _of_dashboard(name: str) -> Iterator[str]:
    dashboard: dict[str, Any] = json.loads((MONITORING / f"{name}-grafana.json").read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])


@pytest.mark.parametrize("expressions", [_of_alerts, _of_dashboard])
def test_expressions_use_metrics_of_the_service(client: httpx.Client, expressions: Any) -> None:
    """Each metric in an expression is one that /metrics has, with the labels and the routes that it has."""
    for _ in range(2):
        client.get("/v1/aggregates/carrier_scorecard/rows")
    _assert_known(list(expressions("serve")), client.get("/metrics").text)


@pytest.mark.parametrize("expressions", [_of_alerts, _of_dashboard])
def test_expressions_use_metrics_of_the_collector(tmp_path: Path, expressions: Any) -> None:
    """The same is true of those of events, whose metrics are known after an event and a refused request."""
    _assert_known(list(expressions("collect")), asyncio.run(_metrics_of_a_collector(tmp_path)))


async def _metrics_of_a_collector(folder: Path) -> str:
    """Return the metrics of a collector that has accepted an event and refused another; its loader does not run."""
    with receiver_in(folder) as receiver:
        transport = httpx.ASGITransport(receiver)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.post("/v1/events/parcels", json={"parcel_id": "A"})).status_code == 202
            assert (await client.post("/v1/events/none", json={})).status_code == 404
            return (await client.get("/metrics")).text


def _assert_known(wanted: list[str], text: str) -> None:
    """Assert that each metric of some expressions is in a text, with their labels and routes."""
    used = {name for expression in wanted for name in re.findall(r"etl_(?:serve|collect)_\w+", expression)}
    assert used
    assert [name for name in used if not re.search(rf"^{name}[{{ ]", text, re.MULTILINE)] == []
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"instance", "job"}
    for expression in wanted:
        assert set(re.findall(r'(\w+)(?:=~|!=|=)"', expression)) <= labels, expression
        for route in re.findall(r'route="([^"]+)"', expression):
            assert f'route="{route}"' in text, route
