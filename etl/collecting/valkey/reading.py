"""The streams of a Redis or Valkey server as the loader reads them: by the place that the ledger has."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import ResponseError

from etl.collecting.buffers import Keep, Limits, UnreadableError
from etl.collecting.stretches import Stretch, stretch_of
from etl.collecting.valkey.buffer import ValkeyBuffer
from etl.collecting.valkey.link import AwayError, Link
from etl.collecting.valkey.scripts import DATASETS, REMOVE, keys_of, prefix_of
from etl.errors import DatabaseError, UsageError


@dataclass(frozen=True, kw_only=True)
class ValkeyStore:
    """A server, by its address; `is_volatile`: it may lose what it has acknowledged, and that is accepted."""

    url: str = field(repr=False)
    is_volatile: bool = False

    @property
    def name(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def require_usable(self) -> None:
        """Raise UsageError when the settings of the server do not keep events, DatabaseError when it is away."""
        link = Link(self.url, is_volatile=self.is_volatile)
        try:
            link.connect()
        except AwayError as error:
            raise DatabaseError(str(error), hint="start it, and run the same command") from error
        finally:
            link.close()

    def left_open(self) -> list[str]:
        """Return no dataset: all that was acknowledged can be read."""
        return []

    def opened(self, dataset: str, limits: Limits) -> ValkeyBuffer:
        """Return the buffer of a dataset, to write to."""
        return ValkeyBuffer(dataset, Link(self.url, is_volatile=self.is_volatile), limits)

    def reader(self) -> "ValkeyReader":
        """Return a reader of all streams."""
        return ValkeyReader(Link(self.url, is_volatile=True))


class ValkeyReader:
    """Reads the streams of a server, over one connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loaded: dict[str, deque[tuple[float, int]]] = {}

    def datasets(self) -> list[str]:
        """Return the datasets that have streams."""
        with _reading():
            return sorted(name.decode() for name in self._link.call("SMEMBERS", DATASETS))

    def streams(self, dataset: str) -> "list[ValkeyStream]":
        """Return the streams of a dataset in the order in which they began."""
        _, streams, ends, counts = keys_of(dataset)
        commands = [("LRANGE", streams, 0, -1), ("HGETALL", ends), ("HGETALL", counts)]
        with _reading():
            names, *found = self._link.call_all(commands)
        end_of, count_of = (dict(zip(each[::2], each[1::2], strict=True)) for each in found)
        return [
            ValkeyStream(
                name=name.decode(),
                dataset=dataset,
                end=int(end_of.get(name, 0)),
                count=int(count_of.get(name, 0)),
                link=self._link,
                loaded=self._loaded.setdefault(name.decode(), deque()),
            )
            for name in names
        ]

    def close(self) -> None:
        """End the connection."""
        self._link.close()


@dataclass(frozen=True, kw_only=True)
class ValkeyStream:
    """A stream: the byte after its last event, the number of its events, and when it was loaded up to which byte."""

    name: str
    dataset: str
    end: int
    count: int
    link: Link
    loaded: deque[tuple[float, int]]

    @property
    def newest(self) -> str:
        """The byte after the last event."""
        return str(self.end)

    @property
    def _key(self) -> str:
        return f"{prefix_of(self.dataset)}:of:{self.name}"

    def next_stretch(self, position: int, most_events: int, most_bytes: int) -> Stretch | None:
        """Return the next events; None: there are none now. They begin later where events are missing."""
        if position >= self.end:
            return None
        last = f"{position + most_bytes}-0"
        with _reading():
            before, after = self.link.call_all(
                [
                    ("XREVRANGE", self._key, f"{position}-1", "-", "COUNT", 1),
                    ("XRANGE", self._key, f"({position}-1", last, "COUNT", most_events),
                ]
            )
            if not before and not after:  # The next group may be larger than a batch is, or events are missing.
                after = self.link.call("XRANGE", self._key, f"({position}-1", "+", "COUNT", 1)
        return stretch_of(_from(before + after, position), position, most_events, most_bytes)

    def waiting(self, position: int) -> tuple[int, float]:
        """Return the bytes after a position, and the age of the oldest event of them."""
        size = max(0, self.end - position)
        if not size:
            return 0, 0.0
        with _reading():
            found = self.link.call("XREVRANGE", self._key, f"{position}-1", "-", "COUNT", 1)
            if not found or _end(found[0]) <= position:
                found = self.link.call("XRANGE", self._key, f"({position}-1", "+", "COUNT", 1)
        return size, max(0.0, time.time() - int(_values(found[0])[b"t"]) / 1000) if found else 0.0

    def waiting_events(self, position: int) -> int:
        """Return how many events are after a position."""
        if position >= self.end:
            return 0
        with _reading():
            found = self.link.call("XREVRANGE", self._key, f"{position}-1", "-", "COUNT", 1)
            if not found:
                found = self.link.call("XRANGE", self._key, f"({position}-1", "+", "COUNT", 1)
        if not found:
            return 0
        values, begin = _values(found[0]), _offset(found[0])
        return self.count - int(values[b"e"]) - values[b"l"].count(b"\n", 0, max(0, position - begin))

    def has(self, offset: int) -> bool:
        """Return whether the stream has an event at a byte."""
        if offset >= self.end:
            return False
        with _reading():
            found = self.link.call("XREVRANGE", self._key, f"{offset}-1", "-", "COUNT", 1)
        return bool(found) and offset < _end(found[0])

    def remove_loaded(self, position: int, keep: Keep, *, is_last: bool) -> None:
        """Remove the groups that are loaded and need not be kept, and the stream if it has ended and has none."""
        now = time.monotonic()
        self.loaded.append((now, position))
        cut = max(0, min(position, self.end - keep.bytes))
        while self.loaded and self.loaded[0][0] <= now - keep.seconds:
            cut = max(cut, min(position, self.loaded.popleft()[1]))
        if cut > 0 or (not is_last and position >= self.end):
            with _reading():
                self.link.run(REMOVE, keys_of(self.dataset), (prefix_of(self.dataset), self.name, cut))


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except AwayError as error:
        raise UnreadableError(str(error), "events wait in it until it is back") from error
    except (UsageError, ResponseError) as error:
        reason = str(error).split(" ", 1)[0] if isinstance(error, ResponseError) else str(error)
        raise UnreadableError(f"the server of the buffer refuses a command: {reason}", "see its log") from error


def _from(groups: list[Any], position: int) -> Iterator[tuple[bytes, int]]:
    """Yield the lines of groups after a position, with their offsets."""
    for group in groups:
        offset, lines = _offset(group), _values(group)[b"l"]
        begin = max(0, position - offset)
        if begin < len(lines):
            yield lines[begin:], offset + begin


def _offset(group: Any) -> int:
    return int(group[0].partition(b"-")[0])


def _values(group: Any) -> dict[bytes, bytes]:
    return dict(zip(group[1][::2], group[1][1::2], strict=True))


def _end(group: Any) -> int:
    return _offset(group) + len(_values(group)[b"l"])
