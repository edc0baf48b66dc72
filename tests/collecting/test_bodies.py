"""The bodies of requests: what is large is parsed beside the event loop."""

import asyncio
import gzip
import json
import threading
from pathlib import Path

import httpx
import pytest

from etl.collecting import bodies
from etl.collecting.bodies import AT_ONCE_BYTES
from etl.collecting.events import Events, events_of
from tests.support.receivers import receiver_in

PARCELS = "/v1/events/parcels"
JSON = {"Content-Type": "application/json"}
LARGE = json.dumps([{"parcel_id": "x" * 1_000, "weight": number} for number in range(400)]).encode()


@pytest.mark.parametrize("is_compressed", [False, True])
def test_others_do_not_wait_for_a_large_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_compressed: bool
) -> None:
    """While a large body is parsed, also one that gzip has made small, other requests are answered."""
    small_is_answered = threading.Event()

    def slowly(body: bytes) -> Events:
        assert len(body) < AT_ONCE_BYTES or small_is_answered.wait(10)
        return events_of(body)

    monkeypatch.setattr(bodies, "events_of", slowly)
    content = gzip.compress(LARGE) if is_compressed else LARGE
    headers = JSON | ({"Content-Encoding": "gzip"} if is_compressed else {})

    async def send() -> None:
        with receiver_in(tmp_path) as receiver:
            transport = httpx.ASGITransport(receiver)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                large = asyncio.create_task(client.post(PARCELS, content=content, headers=headers))
                await asyncio.sleep(0.1)
                small = await client.post(PARCELS, content=b'{"parcel_id": "A"}', headers=JSON)
                assert (small.status_code, large.done()) == (202, False)
                small_is_answered.set()
                assert (await large).json()["events"] == 400

    asyncio.run(send())
