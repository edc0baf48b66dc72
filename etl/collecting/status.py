"""The state of the streams: what a buffer has, and what of it is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psycopg

from etl.collecting.buffers import Reader
from etl.ingestion.ledger import streams
from etl.serving.events import Waiting


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
    known = {each.stream: each for each in streams.positions(connection)}
    for waits in waiting_in(reader, {name: position.loaded_to for name, position in known.items()}):
        position = known.get(waits.stream)
        yield StreamState(
            stream=waits.stream,
            dataset=waits.dataset,
            loaded_events=0 if position is None else position.count_events,
            waiting_events=waits.events,
            waiting_bytes=waits.bytes,
            waiting_seconds=waits.seconds,
            run=None if position is None else position.run,
            loaded_at=None
            if position is None or position.loaded_at is None
            else f"{position.loaded_at:%Y-%m-%dT%H:%M:%SZ}",
        )


def waiting_in(reader: Reader, loaded_to: Mapping[str, int]) -> Iterator[Waiting]:
    """Yield what waits in each stream of a buffer, the newest of a dataset last.

    `loaded_to` has the byte up to which each stream is loaded. Raises UnreadableError when the buffer cannot be read.
    """
    for dataset in reader.datasets():
        for stream in reader.streams(dataset):
            position = loaded_to.get(stream.name, 0)
            size, age = stream.waiting(position)
            yield Waiting(
                stream=stream.name,
                dataset=dataset,
                events=stream.waiting_events(position) if size else 0,
                bytes=size,
                seconds=round(age, 1),
            )
