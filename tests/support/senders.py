"""Clients of a collector that send numbered events while it is killed, and note what was acknowledged."""

import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.waiting import until

SENDERS = 3
# How long a sender repeats a request that has an Idempotency-Key.
TRIES = 200


@dataclass
class Senders:
    """Threads that send numbered events, and note which were answered with 202, and which were sent at all.

    Half of the requests have an Idempotency-Key and are repeated until they are acknowledged; the others are sent once.
    """

    port: int
    acknowledged: dict[str, set[str]] = field(default_factory=lambda: {"parcels": set(), "tracking_events": set()})
    answers: Counter[str] = field(default_factory=Counter)
    unsure: set[str] = field(default_factory=set)
    is_ended: bool = False

    def __post_init__(self) -> None:
        """Begin to send."""
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send_all(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20) as client:
            while not self.is_ended:
                with self._lock:
                    number = next(self._numbers)
                dataset = "parcels" if number % 2 else "tracking_events"
                names = [f"E{5 * number + place}" for place in range(5)]
                time.sleep(0.02)
                if not self._send(client, dataset, names, has_key=number % 4 < 2):
                    self.unsure.update(names)

    def _send(self, client: httpx.Client, dataset: str, names: list[str], *, has_key: bool) -> bool:
        """Send a request; return whether it was acknowledged."""
        event = _parcel if dataset == "parcels" else _tracking_event
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": names[0]} if has_key else {})
        body = json.dumps([event(name, is_bad=place == 4) for place, name in enumerate(names)])
        for _ in range(TRIES if has_key else 1):
            try:
                answer = client.post(f"/v1/events/{dataset}", content=body, headers=headers)
            except httpx.TransportError:
                self.answers["none"] += 1
                time.sleep(0.05)
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 202:
                self.acknowledged[dataset].update(names)
                return True
            time.sleep(0.05)
        return False

    def await_acknowledged(self) -> None:
        """Wait until another request is acknowledged."""
        before = self.answers["202"]
        until(lambda: self.answers["202"] > before, "an acknowledged request", 60)

    def send_last(self) -> None:
        """Send a request to each dataset, again and again until it is acknowledged."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20) as client:
            for dataset in self.acknowledged:
                number = next(self._numbers)
                assert self._send(client, dataset, [f"E{5 * number + place}" for place in range(5)], has_key=True)

    def end(self) -> None:
        """Send no more."""
        self.is_ended = True
        for thread in self._threads:
            thread.join()


def _parcel(name: str, *, is_bad: bool) -> dict[str, Any]:
    return {"parcel_id": name, "weight": "x" if is_bad else 1}


def _tracking_event(name: str, *, is_bad: bool) -> dict[str, Any]:
    number = int(name[1:])
    return {
        "event_id": name,
        "shipment_id": f"S{number % 1000}",
        "event_code": "EXCEPTION",
        "exception_code": ("DAMAGED", "WEATHER", "CUSTOMS")[number % 3],
        "occurred_at": "never" if is_bad else f"2026-11-{1 + number % 28:02}T09:00:00Z",
    }
