"""Two versions of the service on one database: requests are led from one to the other and back, and none fails."""

import io
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.checkout import ROOT
from tests.support.commands import Running
from tests.support.site import Site
from tests.support.waiting import until

PATHS = (
    "/v1/aggregates/vehicle_days/rows?limit=5",
    "/v1/aggregates/vehicle_days/rows?vehicle_id=like.V*&limit=100&format=csv",
    "/v1/freshness",
    "/v1/runs?limit=5",
    "/v1/failures?state=pending",
    "/",
)


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def _migrations(names: list[str]) -> set[str]:
    return {name.rpartition("/")[2] for name in names if name.endswith(".py")}


def version_before(folder: Path) -> Path | None:
    """Unpack the newest commit that has the service and the first migrations of this tree; None without such a commit.

    A commit on a branch may have a later one without those of other branches: no database was ever at that state.
    """
    here = sorted(_migrations([path.name for path in (ROOT / "sql/migrations/versions").glob("*.py")]))
    for commit in _git("rev-list", "--max-count=500", "HEAD").decode().split():
        tree = _git("ls-tree", "-r", "--name-only", commit, "sql/migrations/versions", "etl/serving").decode().split()
        if "etl/serving/server.py" not in tree:
            return None
        there = sorted(_migrations([name for name in tree if name.startswith("sql/")]))
        if there != here and there == here[: len(there)]:
            with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "etl", "sql", "config"))) as archive:
                archive.extractall(folder, filter="data")
            return folder
    return None


class _Requests:
    """Asks all the time at the place that `at` names, as a proxy that was reloaded does, and notes what failed."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.failed: list[str] = []
        self.count = 0
        self._reached: dict[int, str] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(4)]

    def lead_to(self, address: str) -> None:
        """Send requests to another place from now on, and wait until none is on its way to the one before."""
        self.at = address
        until(lambda: set(self._reached.values()) == {address}, "the requests to be led")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, number: int) -> None:
        tags: dict[str, str] = {}
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                place, path = self.at, PATHS[self.count % len(PATHS)]
                self._reached[number] = place
                try:
                    got = client.get(f"{place}{path}", headers={"If-None-Match": tags.get(place + path, "")})
                except httpx.HTTPError as error:
                    self.failed.append(f"{type(error).__name__} {place}{path}")
                else:
                    if got.status_code not in {200, 304}:
                        self.failed.append(f"{got.status_code} {got.text[:200]}")
                    tags[place + path] = got.headers.get("etag", "")
                self.count += 1


@contextmanager
def _service(site: Site, code: Path) -> Iterator[tuple[Running, str]]:
    """Run the service of some code until the context ends; give its address when it is ready."""
    words = ["--log-format", "json", "serve", "--port", "0", "--no-access-log"]
    running = Running(words, site.environment({"PYTHONPATH": str(code)}), site.folder)
    try:
        until(lambda: running.events("serving") or not running.is_running(), "the service")
        assert running.is_running(), running.stderr()
        address = running.events("serving")[0]["address"]
        until(lambda: httpx.get(f"{address}/readyz", trust_env=False).status_code == 200, "the service to be ready")
        yield running, str(address)
    finally:
        running.close()


def _end(running: Running) -> None:
    running.signal(signal.SIGTERM)
    assert running.ended().returncode == 0


@pytest.mark.slow
def test_a_version_replaces_the_one_before_and_is_replaced_by_it(site: Site, tmp_path: Path) -> None:
    """The version before and this one on one database, a migration and loads between: 0 requests fail, also back."""
    before = version_before(tmp_path / "before")
    if before is None:
        pytest.skip("the history of this clone has no commit with the service and fewer migrations")
    name = sql.Identifier("two_versions")
    site.ask(sql.SQL("create database {}").format(name))
    shared = Site(make_conninfo(site.conninfo, dbname="two_versions"), tmp_path)
    old = {"PYTHONPATH": str(before)}
    try:
        assert shared.run("db", "migrate", own_process=True, env=old).returncode == 0
        shared.run("generate", "vehicle_logs", "--records", "600", "--bad", "1%", "--output", "a.json")
        shared.run("generate", "vehicle_logs", "--records", "900", "--bad", "1%", "--output", "b.json")
        shared.run("load", "vehicle_logs", "a.json", "--max-rejected", "100%", own_process=True, env=old)
        _change(shared, before)
    finally:
        shared.close()
        site.ask(sql.SQL("drop database {} with (force)").format(name))


def _change(shared: Site, before: Path) -> None:
    # The requests end before the services that the stack closes.
    with ExitStack() as services:
        blue, address = services.enter_context(_service(shared, before))
        requests = _Requests(address)
        with requests.running():
            until(lambda: requests.count > 50, "some requests")
            assert shared.run("db", "migrate", own_process=True).returncode == 0
            green, address = services.enter_context(_service(shared, ROOT))
            requests.lead_to(address)
            _end(blue)
            shared.run("load", "vehicle_logs", "b.json", "--max-rejected", "100%", own_process=True)
            _require_rows(shared, address)
            _, address = services.enter_context(_service(shared, before))
            requests.lead_to(address)
            _end(green)
            _require_rows(shared, address)
            done = requests.count
            until(lambda: requests.count > done + 50, "more requests")
    assert requests.failed == []
    assert requests.count > 150


def _require_rows(shared: Site, address: str) -> None:
    got = httpx.get(f"{address}/v1/aggregates/vehicle_days/rows?limit=10000", trust_env=False)
    trips = shared.value("select sum(count_trips) from analytics.vehicle_days")
    assert sum(row["count_trips"] for row in got.json()["rows"]) == trips > 0
