"""Events in Redis or Valkey: what is acknowledged is durable and loaded once; other requests are refused."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from etl.collecting.buffers import Accepted, Keep, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events, events_of
from etl.collecting.valkey.buffer import ValkeyBuffer
from etl.datasets import Dataset
from etl.errors import DatabaseError, UsageError
from tests.collecting.test_collector import collecting
from tests.support.collected import NOTHING, load_all, loader_of_reader
from tests.support.definitions import SMALL_PARCELS
from tests.support.redis_servers import RedisServer, redis_server
from tests.support.relays import Relay
from tests.support.site import Site
from tests.support.waiting import until

EVERYTHING = Keep(seconds=3600, bytes=1 << 30)


def _events(*bodies: object) -> Events:
    return events_of("\n".join(map(json.dumps, bodies)).encode())


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    """Run a Valkey server that keeps what it acknowledges."""
    with redis_server(tmp_path / "valkey") as server:
        yield server


def _opened(server: RedisServer, limits: Limits | None = None) -> ValkeyBuffer:
    return server.store.opened("scans", limits or Limits())


def _lines(server: RedisServer) -> list[bytes]:
    """Return all events that a loader would load, in order."""
    lines: list[bytes] = []
    with closing(server.store.reader()) as reader:
        for stream in reader.streams("scans"):
            position = 0
            while (stretch := stream.next_stretch(position, 100, 1 << 20)) is not None:
                lines += stretch.lines.splitlines()
                position = stretch.end
    return lines


def _accepted_until_refused(buffer: ValkeyBuffer, make: Callable[[int], Events]) -> tuple[int, str]:
    """Send events until one is refused; return the number of those that were accepted, and the reason."""
    number = 0
    while True:
        try:
            buffer.submit(make(number)).result()
        except RefusedError as refused:
            return number, str(refused)
        number += 1


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_places_and_keys(tmp_path: Path, kind: str) -> None:
    """Places and keys are as in a spool, for all collectors of a server, also after a kill -9 of the server."""
    with redis_server(tmp_path / "server", kind) as server:
        server.store.require_usable()
        with closing(_opened(server)) as one, closing(_opened(server)) as two:
            first = one.submit(_events({"n": 1}, {"n": 2}), key="k").result()
            assert first.offsets == [0, 9]
            again = Accepted(stream=first.stream, offsets=[0, 9], is_repeat=True)
            assert two.submit(_events({"n": 1}, {"n": 2}), key="k").result() == again
            with pytest.raises(OtherBodyError):
                two.submit(_events({"n": 3}), key="k").result()
            assert two.submit(_events({"n": 3})).result() == Accepted(stream=first.stream, offsets=[18])
            server.kill()
            with pytest.raises(RefusedError, match="takes no events now"):
                one.submit(_events({"n": 4})).result()
            server.start()
            assert two.submit(_events({"n": 1}, {"n": 2}), key="k").result() == again
            later = two.submit(_events({"n": 5})).result()
            assert later.stream != first.stream  # Another server process may have lost the end of a stream.
        assert _lines(server) == [b'{"n": 1}', b'{"n": 2}', b'{"n": 3}', b'{"n": 5}']


def test_an_answer_that_is_lost(valkey: RedisServer) -> None:
    """When the answer is lost, the request is refused although its events are stored; with its key it is harmless."""
    relay = Relay(f"host=127.0.0.1 port={valkey.port}")
    port = relay.conninfo.partition("port=")[2].split()[0]
    store = type(valkey.store)(url=f"redis://127.0.0.1:{port}/0")
    try:
        with closing(store.opened("scans", Limits())) as buffer:
            buffer.submit(_events({"n": 1})).result()
            relay.cut_at = ("to the loader", relay.passed["to the loader"] + 1)
            with pytest.raises(RefusedError):
                buffer.submit(_events({"n": 2}), key="k").result()
            until(lambda: len(_lines(valkey)) == 2, "the event, stored once")

            def is_repeat() -> bool:
                try:
                    return buffer.submit(_events({"n": 2}), key="k").result().is_repeat
                except RefusedError:
                    return False

            until(is_repeat, "the next connection")
        assert _lines(valkey) == [b'{"n": 1}', b'{"n": 2}']
    finally:
        relay.close()


def test_a_full_server(valkey: RedisServer) -> None:
    """When its memory or the backlog is full, requests are refused and nothing acknowledged is lost."""
    used = int(valkey.client.info("memory")["used_memory"])
    valkey.client.config_set("maxmemory", used + (2 << 20))
    with closing(_opened(valkey)) as buffer:
        count, reason = _accepted_until_refused(buffer, lambda at: _events({"n": at, "note": "x" * 50_000}))
        assert (reason, count > 10) == ("the memory of the server of the buffer is full", True)
    assert [json.loads(line)["n"] for line in _lines(valkey)] == list(range(count))
    valkey.client.config_set("maxmemory", 0)
    with closing(_opened(valkey, Limits(most_bytes=1000))) as buffer:
        assert _accepted_until_refused(buffer, lambda at: _events({"n": at}))[1] == "too many events wait to be loaded"
        with closing(valkey.store.reader()) as reader:
            [stream] = reader.streams("scans")
            stream.remove_loaded(stream.end, NOTHING, is_last=True)
        until(lambda: _accepted_until_refused(buffer, lambda at: _events({"n": at}))[0] > 1, "room")


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """On a full disk the server ends, nothing is acknowledged that is not written, and all is there after a start."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "etl-test", str(disk)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8", check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip() if done else 'not root'}")
    try:
        with redis_server(disk / "valkey") as server, closing(_opened(server)) as buffer:
            count, reason = _accepted_until_refused(buffer, lambda at: _events({"n": at, "note": "x" * 9_000}))
            assert (count > 100, reason) == (True, "the server of the buffer takes no events now")
            server.kill()
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            server.start()
            assert [json.loads(line)["n"] for line in _lines(server)] == list(range(count))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_settings_that_lose_events(site: Site, valkey: RedisServer) -> None:
    """A server that may lose what it has acknowledged is refused with each such setting, unless that is accepted."""
    for setting, value in {"appendfsync": "everysec", "no-appendfsync-on-rewrite": "yes"}.items():
        valkey.client.config_set(setting, value)
    ended = site.run("collect", "--port", "0", "--buffer", valkey.url)
    assert ended.returncode == 2
    assert "appendfsync is everysec, not always; no-appendfsync-on-rewrite is yes, not no" in ended.stderr
    assert "--accept-volatile" in ended.stderr
    with closing(_opened(valkey)) as buffer, pytest.raises(RefusedError, match="set up anew"):
        buffer.submit(_events({"n": 1})).result()
    volatile = type(valkey.store)(url=valkey.url, is_volatile=True)
    volatile.require_usable()
    with closing(volatile.opened("scans", Limits())) as buffer:
        buffer.submit(_events({"n": 1})).result()
    valkey.client.config_set("requirepass", "secret")
    with pytest.raises(UsageError, match="password"):
        valkey.store.require_usable()
    assert "secret" not in type(valkey.store)(url=f"redis://:secret@127.0.0.1:{valkey.port}/0").name
    valkey.kill()
    with pytest.raises(DatabaseError, match="cannot be reached"):
        valkey.store.require_usable()
    for address in ("http://127.0.0.1", "redis://127.0.0.1:port/0", "redis://127.0.0.1/0?word=1"):
        ended = site.run("collect", "--port", "0", "--buffer", address)
        assert (ended.returncode, "--buffer cannot be read" in ended.stderr) == (2, True)
    assert site.run("collect", "--part", "load").returncode == 2
    assert "--keep-mb" in site.run("collect", "--keep-mb", "2000").stderr


def test_retention(valkey: RedisServer) -> None:
    """Groups that are loaded are removed after some time, or by size; others never are."""
    with closing(_opened(valkey)) as buffer, closing(valkey.store.reader()) as reader:
        for number in range(3):
            buffer.submit(_events({"n": number})).result()
        [stream] = reader.streams("scans")
        assert [stream.waiting_events(at) for at in (0, 9, 12, 27)] == [3, 2, 2, 0]
        stream.remove_loaded(27, EVERYTHING, is_last=True)
        stream.remove_loaded(12, NOTHING, is_last=True)
        assert _lines(valkey) == [b'{"n": 1}', b'{"n": 2}']
        assert (stream.has(9), stream.has(0), stream.has(27)) == (True, False, False)
        stream.remove_loaded(27, Keep(seconds=3600, bytes=9), is_last=True)
        assert _lines(valkey) == [b'{"n": 2}']
        stream.remove_loaded(27, NOTHING, is_last=True)
        assert buffer.submit(_events({"n": 3})).result().offsets == [27]
        assert buffer.bytes == 9
        valkey.client.hset("etl:collect:{scans}", "server", "another")
        later = buffer.submit(_events({"n": 4})).result()
        assert later.offsets == [0]
        stream = reader.streams("scans")[0]
        stream.remove_loaded(36, EVERYTHING, is_last=False)
        assert len(reader.streams("scans")) == 2
        stream.remove_loaded(36, NOTHING, is_last=False)
        assert [each.name for each in reader.streams("scans")] == [later.stream]


def test_events_are_loaded_once(site: Site, valkey: RedisServer) -> None:
    """Two collectors and two loaders of one server: each event is one row; what is not committed is not removed."""
    dataset = site.define(SMALL_PARCELS)
    store = valkey.store
    with (
        closing(store.reader()) as reader,
        closing(store.opened("parcels", Limits())) as one,
        closing(store.opened("parcels", Limits())) as two,
    ):
        loaders = [loader_of_reader(site.conninfo, site.folder, dataset, reader, NOTHING) for _ in range(2)]
        events = [{"parcel_id": f"P{number}", "weight": number} for number in range(500)]
        for each in (one, two, one):
            each.submit(_events(*events)).result()
        accepted = two.submit(_events({"parcel_id": "last", "weight": "x"})).result()
        assert sum(map(load_all, loaders)) == 1
        assert site.value("select count(*) from logistics.parcels") == 1_500
        assert site.ask("select loaded_to, count_events from etl.streams") == [(accepted.offsets[0] + 37, 1_501)]
        one.submit(_events({"parcel_id": "A"})).result()
        [state] = site.run("collect", "--status", "--json", "--buffer", valkey.url).lines
        assert (state["loaded_events"], state["waiting_events"], state["waiting_bytes"]) == (1_501, 1, 19)
        assert [load_all(loader) for loader in loaders] == [1, 0]
        for loader in loaders:
            loader.close()


@pytest.mark.slow
def test_a_replica_that_lost_the_end(site: Site, valkey: RedisServer, tmp_path: Path) -> None:
    """After a failover to a replica without the last events, later events are loaded, and none is lost."""
    dataset = site.define(SMALL_PARCELS)
    with redis_server(tmp_path / "replica", replicaof=f"127.0.0.1 {valkey.port}") as replica:
        with closing(_of_parcels(valkey)) as buffer:
            buffer.submit(_events({"parcel_id": "A"})).result()
            until(lambda: replica.client.exists("etl:collect:datasets"), "the replica")
            with pytest.raises(DatabaseError, match="replica"):
                replica.store.require_usable()
            replica.client.replicaof("no", "one")
            buffer.submit(_events({"parcel_id": "B"}, {"parcel_id": "C"})).result()
        _load(site, dataset, valkey)
        valkey.kill()
        with closing(_of_parcels(replica)) as buffer:
            buffer.submit(_events({"parcel_id": "D"}, {"parcel_id": "E"})).result()
        _load(site, dataset, replica)
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "B", "C", "D", "E"]


def _of_parcels(server: RedisServer) -> ValkeyBuffer:
    return server.store.opened("parcels", Limits())


def _load(site: Site, dataset: Dataset, server: RedisServer) -> None:
    with closing(server.store.reader()) as reader:
        loader = loader_of_reader(site.conninfo, site.folder, dataset, reader)
        load_all(loader)
        loader.close()


@pytest.mark.slow
def test_the_embedded_server(site: Site) -> None:
    """The collector starts a server, again when it was killed; it ends with it, and keeps its events."""
    site.define(SMALL_PARCELS)
    folder = site.folder / ".etl" / "valkey"

    def servers() -> list[psutil.Process]:
        return [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)]

    with collecting(site, "--buffer", "embedded", "--refresh-seconds", "0") as collector:
        collector.send({"parcel_id": "A"})
        assert site.run("collect", "--port", "0", "--buffer", "embedded").returncode == 6
        [server] = servers()
        server.kill()

        def is_accepted() -> bool:
            headers = {"Content-Type": "application/json", "Idempotency-Key": "B"}
            return collector.client.post("/v1/events/parcels", content='{"parcel_id": "B"}', headers=headers).is_success

        until(is_accepted, "the server")
        assert collector.running.events("embedded_server_died")
        until(lambda: site.value("select count(*) from logistics.parcels") == 2, "the rows")
        collector.running.process.kill()
        collector.running.process.wait()
        until(lambda: not servers(), "the end of the server")
    site.ask("alter table logistics.parcels rename to away")
    with collecting(site, "--buffer", "embedded", "--refresh-seconds", "0") as collector:
        collector.send({"parcel_id": "C"})
        collector.running.process.kill()
        collector.running.process.wait()
    site.ask("alter table logistics.away rename to parcels")
    with collecting(site, "--buffer", "embedded", "--refresh-seconds", "0"):
        until(lambda: site.value("select count(*) from logistics.parcels") == 3, "the event of before")
    until(lambda: not servers(), "the end of the server")
