"""The connections of a server are bounded: the idle ones make room, and the head of a request has limits."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from etl.serving import connections
from etl.serving.connections import guarded
from etl.serving.server import DrainingServer, bound

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
Scenario = Callable[[int], Awaitable[None]]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answer each request after its body."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def _play(scenario: Scenario, most: int = 4) -> None:
    """Play a scenario with the port of a server that has so many connections at most."""

    async def play() -> None:
        protocol = type("Few", (guarded(),), {"most": most})
        config = uvicorn.Config(_app, http=protocol, ws="none", lifespan="off", log_config=None, port=0)
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        try:
            await scenario(server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.force_exit = True
            await server.shutdown()

    asyncio.run(play())


async def _answer(port: int, sent: bytes) -> bytes:
    """Send bytes on a connection of their own, and return what comes until it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 20)
        return b""
    finally:
        writer.close()


def test_idle_connections_make_room() -> None:
    """With the last place taken, the connection that has been idle for the longest time is closed, and no other."""

    async def scenario(port: int) -> None:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        opened[0][1].write(GET + b"\r\n")
        assert (await opened[0][0].readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert b" 200 " in await _answer(port, GET + b"Connection: close\r\n\r\n")
        assert await opened[1][0].read() == b""  # The first one was idle for a shorter time.
        for reader, writer in (opened[0], opened[2], opened[3]):
            writer.write(GET + b"\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        for _, writer in opened:
            writer.close()

    _play(scenario)


def test_a_head_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is too large, has too many headers, or takes too long ends its connection; blanks do not help."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    chunked = GET + b"Transfer-Encoding: chunked\r\n\r\n"
    wrong = [GET + b"x: y\r\n" * 200, GET + b"x: " + b"y" * 100_000, b"GET /" + b"x" * 100_000]
    wrong += [chunked + b"0\r\n" + b"x: y\r\n" * 200, chunked + b"2;" + b"x" * 1_000_000]
    wrong += [(GET + b"\r\n") * 100, b"", b"\r\n", GET, GET + b"x: "]

    async def scenario(port: int) -> None:
        for sent in wrong:
            await _answer(port, sent)  # It ends, with an answer or without.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        await reader.readuntil(b"ok")
        async with asyncio.timeout(20):
            while not reader.at_eof() and reader.exception() is None:
                writer.write(b"\r\n")
                await asyncio.sleep(0.02)
        writer.close()

    _play(scenario)


def test_a_signal_at_the_beginning() -> None:
    """A server that says that it has begun ends by a signal as later: after its requests, and with the number noted."""
    config = uvicorn.Config(_app, ws="none", lifespan="off", log_config=None)
    server = DrainingServer(config, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with bound("127.0.0.1", 0) as listener:
            asyncio.run(asyncio.wait_for(server.serve(sockets=[listener]), 20))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert server.signal == signal.SIGTERM
