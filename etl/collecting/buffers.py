"""What a buffer does: it keeps accepted events until they are loaded. Two kinds have one protocol: spool, and server.

The collector writes by a `Buffer` for each dataset; the loader reads by a `Reader`. A `Store` says where both are.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from etl.collecting.events import Events
from etl.collecting.stretches import Stretch

SEGMENT_SECONDS = 0.2
SEGMENT_BYTES = 16 << 20
WAITING_BYTES = 64 << 20
"""Events that wait to be written at most; further requests are asked to come again."""
MOST_BYTES = 1 << 30
KEEP_SECONDS = 600.0


class RefusedError(Exception):
    """A buffer takes no events now: they are not acknowledged, and may be sent again after some seconds."""

    def __init__(self, reason: str, seconds: int = 1) -> None:
        super().__init__(reason)
        self.seconds = seconds


class OtherBodyError(Exception):
    """An idempotency key was used before, with other events."""


class UnreadableError(Exception):
    """The buffer cannot be read now; `hint` says what ends that."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The places of events that are durable: their stream, and the byte at which each begins in it.

    `is_repeat`: an earlier request with the same key has sent them.
    """

    stream: str
    offsets: Sequence[int]
    is_repeat: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a segment ends, how many bytes a buffer has at most, and for how many seconds a server knows keys."""

    segment_seconds: float = SEGMENT_SECONDS
    segment_bytes: int = SEGMENT_BYTES
    most_bytes: int = MOST_BYTES
    waiting_bytes: int = WAITING_BYTES
    key_seconds: float = KEEP_SECONDS


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Events are kept for so many seconds after they were loaded, but only as long as a stream has so many bytes."""

    seconds: float
    bytes: int


class Buffer(Protocol):
    """Accepts the events of one dataset."""

    @property
    def is_broken(self) -> bool:
        """Whether no event is accepted until the process is started again."""

    @property
    def bytes(self) -> int:
        """The bytes of the buffer, as they were counted last."""

    def submit(self, events: Events, key: str | None = None) -> "Future[Accepted]":
        """Let events be written; the future has their places when they are durable.

        A request with the `key` of an earlier one gets the places of that one. Raises RefusedError at once when the
        buffer takes no events; the future may raise it, too, and OtherBodyError.
        """

    def close(self) -> None:
        """Write what was submitted, and end."""


class Buffered(Protocol):
    """A stream in a buffer, as the loader reads it."""

    @property
    def name(self) -> str:
        """The name of the stream."""

    @property
    def newest(self) -> str:
        """A text that is another one when more of the stream can be read."""

    def next_stretch(self, position: int, most_events: int, most_bytes: int) -> Stretch | None:
        """Return the next events that are durable; None: there are none now.

        They begin at the position, or later, where events are missing. Raises UnreadableError.
        """

    def waiting(self, position: int) -> tuple[int, float]:
        """Return the durable bytes after a position, and the age of the oldest event of them in seconds."""

    def waiting_events(self, position: int) -> int:
        """Return how many durable events are after a position."""

    def has(self, offset: int) -> bool:
        """Return whether the stream has an event at a byte, loaded or not."""

    def remove_loaded(self, position: int, keep: Keep, *, is_last: bool) -> None:
        """Remove the events that are loaded up to a position and need not be kept.

        `is_last`: the dataset has no later stream, so the next event may get its place after the last one of this one.
        """


class Reader(Protocol):
    """Reads the buffers of all datasets; each method raises UnreadableError when that is not possible now."""

    def datasets(self) -> list[str]:
        """Return the datasets that have streams."""

    def streams(self, dataset: str) -> Sequence[Buffered]:
        """Return the streams of a dataset in the order in which they began."""

    def close(self) -> None:
        """End the connection, if there is one."""


class Store(Protocol):
    """The place of the buffers of all datasets: a plain value that other processes can get."""

    @property
    def name(self) -> str:
        """The place in words, without a password."""

    def require_usable(self) -> None:
        """Raise an EtlError when events cannot be kept there."""

    def left_open(self) -> list[str]:
        """Return the datasets whose buffer must be opened at once: a crash may have left events that cannot be read."""

    def opened(self, dataset: str, limits: Limits) -> Buffer:
        """Return the buffer of a dataset, to write to.

        Raises BusyError when another process writes it, DatabaseError when it cannot be used.
        """

    def reader(self) -> Reader:
        """Return a reader of the buffers."""
