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

from tests.support.checkout import MEASURED, ROOT
from tests.support.commands import Running
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

    def __init__(self, folder: Path, server: dict[str, Any], port: int) -> None:
        self.folder = folder
        self.port = port
        self.running: dict[str, Running] = {}
        self._server = server

    def words(self, words: list[str], values: dict[str, str]) -> list[str]:
        """Return a command with the variables of the file filled in, and the port of the service of this test."""
        filled = [VARIABLE.sub(lambda found: values.get(found[1], found[2] or ""), word) for word in words]
        return [word.replace("8080", str(self.port)) for word in filled]

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
    """In the order of depends_on: migrated, listening, served, loaded; the page and the rows are there."""
    folder = tmp_path / "data"
    (folder / "input").mkdir(parents=True)
    (folder / "config").symlink_to(ROOT / "config")
    services = COMPOSE["services"]
    with users_of(site) as server:
        composed = Composed(folder, server, free_port())
        try:
            for name in in_order(services):
                if name == "database":
                    continue
                for before, condition in services[name]["depends_on"].items():
                    _require(composed, before, condition["condition"])
                if "profiles" not in services[name]:
                    composed.running[name] = composed.start(name)
            for name in ("listener", "serve"):
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
            for name in ("serve", "listener"):
                composed.running[name].signal(signal.SIGTERM)
                assert composed.running[name].ended().returncode == 0, name
        finally:
            for running in composed.running.values():
                running.close()


def _require(composed: Composed, before: str, condition: str) -> None:
    """Wait as compose does before it starts what depends on a service."""
    if before == "database":
        assert condition == "service_healthy"
        return
    assert condition == "service_completed_successfully"
    ended = composed.running[before].ended()
    assert ended.returncode == 0, ended.stderr


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
