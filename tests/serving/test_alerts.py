"""The example alerts and the dashboard of the service use metrics that it has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.support.checkout import ROOT

MONITORING = ROOT / "config" / "monitoring"


def _of_alerts() -> Iterator[str]:
    [group] = yaml.safe_load((MONITORING / "serve-alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        assert {"summary", "description"} <= set(rule["annotations"])
        yield rule["expr"]


def _of_dashboard() -> Iterator[str]:
    dashboard: dict[str, Any] = json.loads((MONITORING / "serve-grafana.json").read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])


@pytest.mark.parametrize("expressions", [_of_alerts, _of_dashboard])
def test_expressions_use_metrics_of_the_service(client: httpx.Client, expressions: Any) -> None:
    """Each metric in an expression is one that /metrics has, with the labels and the routes that it has."""
    for _ in range(2):
        client.get("/v1/aggregates/carrier_scorecard/rows")
    text = client.get("/metrics").text
    wanted = list(expressions())
    used = {name for expression in wanted for name in re.findall(r"etl_serve_\w+", expression)}
    assert used
    assert [name for name in used if not re.search(rf"^{name}[{{ ]", text, re.MULTILINE)] == []
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"instance", "job"}
    for expression in wanted:
        assert set(re.findall(r'(\w+)(?:=~|!=|=)"', expression)) <= labels, expression
        for route in re.findall(r'route="([^"]+)"', expression):
            assert f'route="{route}"' in text, route
