"""The state of the streams: what a buffer has, and what of it is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from etl.collecting.buffers import Reader
from etl.ingestion.ledger import streams


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """A stream of a buffer: the events that are loaded, and the count, bytes and age in seconds of those that wait."""

    stream: str
    dataset: str
    loaded_events: int
    waiting_events: int
    waiting_bytes: int
    waiting_seconds: float
    run: str | None
    loaded_at: str | None


def states(connection: psycopg.Connection, reader: Reader) -> Iterator[StreamState]:
    """Yield the state of each stream of a buffer, the newest of a dataset last.

    Raises UnreadableError when the buffer cannot be read.
    """
    for dataset in reader.datasets():
        known = {each.stream: each for each in streams.positions(connection, dataset)}
        for stream in reader.streams(dataset):
            position = known.get(stream.name)
            loaded_to = 0 if position is None else position.loaded_to
            size, age = stream.waiting(loaded_to)
            yield StreamState(
                stream=stream.name,
                dataset=dataset,
                loaded_events=0 if position is None else position.count_events,
                waiting_events=stream.waiting_events(loaded_to) if size else 0,
                waiting_bytes=size,
                waiting_seconds=round(age, 1),
                run=None if position is None else position.run,
                loaded_at=None
                if position is None or position.loaded_at is None
                else f"{position.loaded_at:%Y-%m-%dT%H:%M:%SZ}",
            )
