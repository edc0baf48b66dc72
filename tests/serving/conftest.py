"""One database with facts, one service on it and one browser for all tests of this room."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql.executors import NoopExecutor

from tests.support.browsing import is_fault, launched
from tests.support.faults import Connection
from tests.support.services import RunningService, serving
from tests.support.site import Site

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def demo(
    postgresql_maintenance: Connection, postgresql_template: NoopExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Give a database with shipments, trips and their aggregates, and the folder that they were loaded from."""
    name = sql.Identifier("serving")
    template = sql.Identifier(postgresql_template.template_dbname)
    drop = sql.SQL("drop database if exists {} with (force)").format(name)
    postgresql_maintenance.execute(drop)
    postgresql_maintenance.execute(sql.SQL("create database {} template {} strategy file_copy").format(name, template))
    site = Site(make_conninfo(postgresql_maintenance.info.dsn, dbname="serving"), tmp_path_factory.mktemp("serving"))
    for dataset in ("vehicle_logs", "shipments"):
        site.run("generate", dataset, "--records", "800", "--seed", "3", "--bad", "1%", "--output", f"{dataset}.json")
        site.run("load", dataset, f"{dataset}.json", "--max-rejected", "100%", "--no-precalculate")
    late = {"shipment_id": "LATE", "carrier": "Northway Freight", "created_at": "2025-12-01T08:00:00Z"}
    late |= {"status": "in_transit", "promised_at": "2025-12-10T18:00:00Z"}
    (site.folder / "late.ndjson").write_text(json.dumps(late) + "\n")
    site.run("load", "shipments", "late.ndjson", "--no-precalculate")
    site.run("precalculate")
    yield site
    site.close()
    postgresql_maintenance.execute(drop)


@pytest.fixture(scope="session")
def service(demo: Site) -> Iterator[RunningService]:
    """Give the service that most tests share."""
    with serving(demo) as service:
        yield service


@pytest.fixture(scope="session")
def client(service: RunningService) -> httpx.Client:
    """Give a client of the service that most tests share."""
    return service.client


@pytest.fixture(scope="session")
def guarded(demo: Site) -> Iterator[RunningService]:
    """Give a service that asks for keys; this machine is not enough."""
    options = ("--auth", "keys", "--host", "0.0.0.0", "--allow-replay", "--cors-origins", "https://bi.example.com")  # noqa: S104
    with serving(demo, *options) as service:
        port = service.client.base_url.port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield RunningService(running=service.running, client=client)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Give a browser."""
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, service: RunningService) -> Iterator[Open]:
    """Give a function that opens an address. A page may log no error, and there is no other server than the service."""
    contexts: list[Any] = []
    faults: list[str] = []

    def open_page(address: str = "/", base: httpx.Client = service.client, **options: Any) -> Any:
        def refuse(route: Any) -> None:
            faults.append(route.request.url)
            route.abort()

        context = browser.new_context(base_url=str(base.base_url), **options)
        contexts.append(context)
        context.route(lambda url: not url.startswith((f"{base.base_url}", "data:", "blob:")), refuse)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
