"""Services of tests: `etl serve` as a process on a free port, with a client of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.commands import Running
from tests.support.site import Site
from tests.support.waiting import until


@dataclass(frozen=True, kw_only=True)
class RunningService:
    """A service that runs, and a client of it."""

    running: Running
    client: httpx.Client


@contextmanager
def serving(
    site: Site, *options: str, conninfo: str | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """Run a service of a site until the context ends."""
    running = site.start("--log-format", "json", "serve", "--port", "0", *options, conninfo=conninfo)
    [begun] = until(lambda: _begun(running), "the service")
    with httpx.Client(base_url=begun["address"], timeout=20, trust_env=False, headers=headers) as client:
        until(lambda: _is_ready(client), "the service to be ready")
        try:
            yield RunningService(running=running, client=client)
        finally:
            running.close()


def _begun(running: Running) -> list[dict[str, Any]]:
    assert running.is_running(), running.stderr()
    return running.events("serving")


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
