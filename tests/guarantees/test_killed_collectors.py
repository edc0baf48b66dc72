"""Whatever takes events is killed with all that it needs, or its disk is full: each acknowledged event is there once.

`ETL_TEST_KILLS` is the number of faults; each is chosen at random, by `ETL_TEST_SEED` if that is set. With
`ETL_TEST_REPORT` the counts go to this file.
"""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, LiteralString

import httpx
import psutil
import psycopg
import pytest

from etl.embedded import Server
from tests.support.commands import Running
from tests.support.definitions import SMALL_PARCELS
from tests.support.senders import Senders
from tests.support.servers import free_port
from tests.support.site import Site
from tests.support.waiting import until

KILLS = int(os.environ.get("ETL_TEST_KILLS", "8"))
REPORT = os.environ.get("ETL_TEST_REPORT")
# The failed store keeps two small files for each group that has a refused event.
DISK = f"{24 + 2 * KILLS}m"

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What takes events, and where they wait; its settings are in the environment, which both commands read."""

    command: Literal["collect", "serve"]
    buffer: Literal["spool", "embedded", "direct"]

    @property
    def words(self) -> list[str]:
        """The command without its address."""
        return ["serve", "--collect", "--no-access-log"] if self.command == "serve" else ["collect"]

    def environment(self, disk: Path) -> dict[str, str]:
        """Return the settings of the command."""
        found = {
            "ETL_COLLECT_SPOOL": str(disk / "spool"),
            "ETL_COLLECT_FAILED_DIR": str(disk / "failed"),
            "ETL_SERVE_FAILED_DIR": str(disk / "failed"),
            "ETL_COLLECT_REFRESH_SECONDS": "0.5",
        }
        key = "ETL_COLLECT_DIRECT" if self.buffer == "direct" else "ETL_COLLECT_BUFFER"
        return found | {key: "true" if self.buffer == "direct" else self.buffer}


VARIANTS = {
    "collect": Variant(command="collect", buffer="spool"),
    "collect-direct": Variant(command="collect", buffer="direct"),
    "collect-valkey": Variant(command="collect", buffer="embedded"),
    "serve": Variant(command="serve", buffer="spool"),
    "serve-direct": Variant(command="serve", buffer="direct"),
    "serve-valkey": Variant(command="serve", buffer="embedded"),
}


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """Give a folder with a file system of its own, which is small."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "etl-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip() if done else 'not root'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass
class Place:
    """A site with an embedded server of its own, whose spool and failed store are on a small disk."""

    site: Site
    server: Server
    disk: Path
    variant: Variant
    port: int = field(default_factory=free_port)

    def begin(self) -> Running:
        """Start what takes events, and again while the server that was killed cannot be reached."""
        env = self.variant.environment(self.disk)
        for _ in range(20):
            running = self.site.start("--log-format", "json", *self.variant.words, "--port", str(self.port), env=env)
            _await(running)
            if running.is_running():
                return running
            assert running.ended().returncode in {4, 6}, running.stderr()
        raise AssertionError("the collector does not start")

    def ask(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """Ask the server."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            return connection.execute(query).fetchall()

    # The faults

    @property
    def faults(self) -> list[Callable[[Running], None]]:
        """What can happen to this variant."""
        found = [self.kill_service, self.kill_backends, self.kill_server, self.fill_disk, self.kill_both]
        if self.variant.buffer != "direct":
            found.append(self.kill_loader)
        if self.variant.buffer == "embedded":
            found.append(self.kill_valkey)
        return found

    def kill_loader(self, running: Running) -> None:
        """End the loader process."""
        _kill_children(running, "spawn_main")

    def kill_valkey(self, running: Running) -> None:
        """End the server of the buffer."""
        _kill_children(running, "valkey-server")

    def kill_backends(self, _running: Running) -> None:
        """End the backends of the collector."""
        with suppress(psycopg.Error):
            self.ask("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^etl'")

    def kill_server(self, _running: Running) -> None:
        """End the postmaster; its backends end by themselves, and the next one who connects starts another."""
        pid = self.server.status().pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: not psutil.pid_exists(pid), "the end of the server")

    def fill_disk(self, _running: Running) -> None:
        """Leave no room for spool and failed store for a while."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        time.sleep(1)
        filler.unlink()

    def kill_service(self, running: Running) -> None:
        """End what takes events."""
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()

    def kill_both(self, running: Running) -> None:
        """End what takes events, and the server, at the same time."""
        self.kill_server(running)
        self.kill_service(running)


def _kill_children(running: Running, word: str) -> None:
    """End the child processes that have a word in their command."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(running.process.pid).children():
            if word in " ".join(child.cmdline()):
                child.kill()


@pytest.fixture(params=VARIANTS)
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give a place of two datasets: one appends, one merges and has aggregates."""
    with _small_disk(tmp_path / "disk") as disk:
        server = Server(tmp_path / "postgres")
        site = Site(f"embedded:{server.folder}", tmp_path)
        try:
            server.start(keep=True)
            site.write_definition(SMALL_PARCELS)
            site.run("db", "migrate", own_process=True, timeout=120)
            site.run("dataset", "create", "parcels", own_process=True)
            yield Place(site=site, server=server, disk=disk, variant=VARIANTS[request.param])
        finally:
            site.close()
            server.stop()


def _await(running: Running) -> None:
    until(
        lambda: running.events("collecting") or running.events("serving") or not running.is_running(), "the start", 120
    )


def _disturb(place: Place, chance: random.Random) -> tuple[Counter[str], Senders]:
    """Send events while faults happen, and return what happened."""
    done: Counter[str] = Counter()
    running = place.begin()
    senders = Senders(place.port)
    try:
        while done.total() < KILLS:
            senders.await_acknowledged()
            time.sleep(chance.uniform(0, 0.7))
            fault = chance.choice(place.faults)
            fault(running)
            done[fault.__name__] += 1
            if not running.is_running():
                running = place.begin()
            if REPORT:
                Path(REPORT).write_text(json.dumps({"faults": done, "answers": senders.answers}) + "\n")
    finally:
        senders.end()
    for _ in range(2):  # The second one loads what the first one may have left.
        running.process.send_signal(signal.SIGTERM)
        assert running.ended(120).returncode == 0, running.stderr()
        running = place.begin()
    senders.send_last()  # The first event of a dataset lets the collector clear up what crashes have left.
    until(lambda: _waiting(place) == 0, "the end of the backlog", 120)
    running.process.send_signal(signal.SIGTERM)
    assert running.ended(120).returncode == 0, running.stderr()
    return done, senders


def _waiting(place: Place) -> int:
    """Return how many events wait; without a buffer none does."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        text = client.get(f"http://127.0.0.1:{place.port}/metrics").text
    found = re.search(r"^etl_collect_waiting_events (\d+)$", text, re.MULTILINE)
    assert found or place.variant.buffer == "direct", text
    return int(found[1]) if found else 0


def _refused(place: Place, dataset: str, key: str) -> list[str]:
    paths = (place.disk / "failed" / dataset).glob("*/*.ndjson")
    return [json.loads(line)[key] for path in paths for line in path.read_bytes().splitlines()]


def test_each_acknowledged_event_is_there_once(place: Place) -> None:
    """Acknowledged events are loaded or refused, each once; ledger, streams and aggregates agree with the tables."""
    seed = int(os.environ.get("ETL_TEST_SEED", random.SystemRandom().randrange(1 << 30)))
    done, senders = _disturb(place, random.Random(seed))
    place.server.start()  # The last collector may have stopped one that was started in the meantime.
    counts: dict[str, Any] = {"variant": vars(place.variant), "seed": seed, "faults": done, "answers": senders.answers}
    ledger = (
        "select r.dataset, sum(b.count_records), sum(b.count_loaded), sum(b.count_rejected),"
        " sum(coalesce(b.count_failed, 0)) from etl.batches b join etl.runs r using (run) group by 1"
    )
    entered = {row[0]: tuple(map(int, row[1:])) for row in place.ask(ledger)}
    streams = dict(place.ask("select dataset, sum(count_events)::bigint from etl.streams group by 1"))
    tables: dict[str, tuple[LiteralString, str]] = {
        "parcels": ("select parcel_id from logistics.parcels", "parcel_id"),
        "tracking_events": ("select event_id from logistics.tracking_events", "event_id"),
    }
    for dataset, (query, key) in tables.items():
        rows = [name for (name,) in place.ask(query)]
        refused = _refused(place, dataset, key)
        acknowledged = senders.acknowledged[dataset]
        lost = acknowledged - set(rows) - set(refused)
        counts[dataset] = {"acknowledged": len(acknowledged), "loaded": len(rows), "refused": len(refused)}
        counts[dataset] |= {"lost": len(lost), "not acknowledged": len({*rows, *refused} - acknowledged)}
        if REPORT:
            Path(REPORT).write_text(json.dumps(counts) + "\n")
        assert not lost, counts
        assert len(rows) == len(set(rows)), counts
        assert len(refused) == len(set(refused)), counts
        assert not set(rows) & set(refused), counts
        # What was not acknowledged may be there, and then it was sent.
        assert {*rows, *refused} - acknowledged <= senders.unsure, counts
        read, loaded, rejected, failed = entered[dataset]
        assert (read, loaded, rejected + failed) == (len(rows) + len(refused), len(rows), len(refused)), counts
        assert streams[dataset] == read, counts
    assert place.site.run("precalculate", own_process=True, timeout=120).returncode == 0
    verified = place.site.run("precalculate", "--verify", own_process=True, timeout=120)
    assert verified.returncode == 0, verified.stdout + verified.stderr
