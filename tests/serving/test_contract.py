"""The description (OpenAPI) is the contract of the service: what it declares is what clients get."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.support.checkout import ROOT
from tests.support.services import RunningService, serving
from tests.support.site import Site

TOOLS = ROOT / ".venv-contract" / "bin"
CONFIG = ROOT / "tests" / "serving" / "schemathesis.toml"


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def test_answers_are_as_declared(client: httpx.Client, demo: Site) -> None:
    """Each address that can be asked without a choice answers as it declares, also with each option for its rows."""
    document = client.get("/v1/openapi.json").json()
    asked = 0
    places = {"run": "latest", "name": "vehicle_days", "table": "logistics.shipments", "lane": "%5B%5D"}
    places["id"] = demo.failures.ids()[0]
    for path, operations in document["paths"].items():
        if "get" not in operations or path in {"/v1/stream", "/metrics"}:
            continue
        responses = operations["get"]["responses"]
        address = path.format(**places)
        is_rows = path.endswith("/rows") or path.startswith("/v1/facts")
        options = ["limit=3", "limit=3&numbers=text", "limit=3&format=columns", "nothing=x"] if is_rows else [""]
        if path.startswith("/v1/trace"):
            options = ["", "shipment_id=none", "carrier=none"]
        for option in options:
            got = client.get(f"{address}?{option}" if option else address)
            declared = responses[str(got.status_code)]["content"][got.headers["content-type"].partition(";")[0]]
            errors = list(_validator(document, declared["schema"]).iter_errors(got.json()))
            assert not errors, (address, option, errors[0].message[:500])
            asked += 1
    assert asked > 70
    for path in ("/v1/runs", "/v1/aggregates/vehicle_days/rows", "/healthz"):
        refused = client.request("TRACE", path)
        assert (refused.status_code, "GET" in refused.headers["allow"]) == (405, True)


def _checked(service: RunningService, folder: Path, *options: str) -> str:
    """Run schemathesis with all checks on a service, and return its report if it has found something."""
    command = [
        str(TOOLS / "schemathesis"),
        "--config-file",
        str(CONFIG),
        "run",
        f"{service.client.base_url}/v1/openapi.json",
    ]
    command += ["--checks", "all", "--max-time", "60", "--max-examples", "20", "--exclude-path", "/v1/stream"]
    command += ["--no-color", "--generation-database", "none", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else done.stdout[-8_000:] + done.stderr[-2_000:]


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "schemathesis").exists(), reason="no schemathesis: make test-contract installs it")
def test_schemathesis_finds_no_answer_that_is_not_declared(demo: Site, tmp_path: Path) -> None:
    """Requests made from the description, valid and not, get declared answers and never a fault of the service."""
    [made] = demo.run("key", "create", "contract", "--role", "admin", "--json").lines
    with serving(demo, "--auth", "keys", "--rate-limit", "0") as service:
        found = _checked(service, tmp_path, "--header", f"Authorization: Bearer {made['key']}")
        assert not found, found
        assert not service.running.events("unexpected_fault")
