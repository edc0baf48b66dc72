"""The state of the streams: what the spool on this machine has, and what of it is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from etl.collecting import reading, segments
from etl.ingestion.ledger import streams


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """A stream of the spool: the events that are loaded, and the bytes and the age in seconds of those that wait."""

    stream: str
    dataset: str
    loaded_events: int
    waiting_bytes: int
    waiting_seconds: float
    run: str | None
    loaded_at: str | None


def states(connection: psycopg.Connection, spool: Path) -> Iterator[StreamState]:
    """Yield the state of each stream of a spool, the newest of a dataset last."""
    if not spool.is_dir():
        return
    for folder in sorted(path for path in spool.iterdir() if path.is_dir()):
        known = {each.stream: each for each in streams.positions(connection, folder.name)}
        for stream in segments.streams(folder):
            position = known.get(stream.name)
            size, age = reading.waiting(stream, 0 if position is None else position.loaded_to)
            yield StreamState(
                stream=stream.name,
                dataset=folder.name,
                loaded_events=0 if position is None else position.count_events,
                waiting_bytes=size,
                waiting_seconds=round(age, 1),
                run=None if position is None else position.run,
                loaded_at=None
                if position is None or position.loaded_at is None
                else f"{position.loaded_at:%Y-%m-%dT%H:%M:%SZ}",
            )
