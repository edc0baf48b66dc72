"""The example alerts on the service use metrics that it has."""

import re

import httpx
import yaml

from tests.support.checkout import ROOT


def test_alerts_use_metrics_of_the_service(client: httpx.Client) -> None:
    """Each metric in an expression is one that /metrics has, with the labels that it has."""
    client.get("/v1/freshness")
    text = client.get("/metrics").text
    [group] = yaml.safe_load((ROOT / "config" / "monitoring" / "serve-alerts.yml").read_text())["groups"]
    used = {name for rule in group["rules"] for name in re.findall(r"etl_serve_\w+", rule["expr"])}
    assert used
    assert [name for name in used if not re.search(rf"^{name}[{{ ]", text, re.MULTILINE)] == []
    assert re.search(r'etl_serve_request_seconds_count\{.*route=".*status="200"', text)
