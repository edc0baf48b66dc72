"""The spool of one dataset: events are on the disk before they are acknowledged.

One thread writes. All requests that arrive during a write are the next group: one write and one fdatasync for all of
them. Nothing else waits, so one request alone is as fast as the disk.
"""

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from etl.collecting import segments
from etl.collecting.events import Events
from etl.collecting.segments import DamagedError, Group, Note, Stream
from etl.errors import BusyError, DatabaseError, reason_of

SEGMENT_SECONDS = 0.2
SEGMENT_BYTES = 16 << 20
GROUP_BYTES = 16 << 20
WAITING_BYTES = 64 << 20
"""Events that wait for the disk at most; further requests are asked to come again."""
KNOWN_KEYS = 100_000
MOST_BYTES = 1 << 30

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SECONDS = 1.0
_COUNT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class RefusedError(Exception):
    """The spool takes no events now: they are not acknowledged, and may be sent again after some seconds."""

    def __init__(self, reason: str, seconds: int = 1) -> None:
        super().__init__(reason)
        self.seconds = seconds


class OtherBodyError(Exception):
    """An idempotency key was used before, with other events."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The places of events that are on the disk: their stream, and the byte at which each begins in it.

    `is_repeat`: an earlier request with the same key has sent them.
    """

    stream: str
    offsets: Sequence[int]
    is_repeat: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a segment ends, and how many bytes a spool has at most."""

    segment_seconds: float = SEGMENT_SECONDS
    segment_bytes: int = SEGMENT_BYTES
    most_bytes: int = MOST_BYTES
    waiting_bytes: int = WAITING_BYTES


@dataclass(frozen=True, kw_only=True)
class _Request:
    events: Events
    key: str | None
    body: str
    future: "Future[Accepted]"


class Spool:
    """Writes the events of one dataset; a lock of the folder keeps every other writer away.

    `today` returns the day (UTC) as YYYYMMDD. Raises BusyError when another process writes the spool, DatabaseError
    when the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        today: Callable[[], str] = lambda: f"{datetime.now(UTC):%Y%m%d}",
    ) -> None:
        self._folder = folder
        self._limits = limits or Limits()
        self._today = today
        self._news = threading.Condition()
        self._waiting: list[_Request] = []
        self._waiting_bytes = 0
        self._is_closing = False
        self._full_until = 0.0
        self._broken: OSError | None = None
        self._known: OrderedDict[str, tuple[str, Note]] = OrderedDict()
        self._stream: Stream | None = None
        self._end = 0
        self._file: int | None = None
        self._path = folder
        self._segment_bytes = 0
        self._ends_at = 0.0
        self._bytes = 0
        self._counted_at = 0.0
        try:
            self._lock = self._locked()
            self._begin()
        except OSError as error:
            raise DatabaseError(
                f"cannot use the spool {folder}: {reason_of(error)}", hint="check the disk and its rights"
            ) from error
        self._thread = threading.Thread(target=self._write_all, name=f"etl-spool-{folder.name}", daemon=True)
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        """Whether a write was lost: no event is accepted until the process is started again."""
        return self._broken is not None

    @property
    def is_closed(self) -> bool:
        """Whether the spool was closed."""
        return self._is_closing

    @property
    def bytes(self) -> int:
        """The bytes of the spool on the disk, as they were counted last."""
        return self._bytes

    def submit(self, events: Events, key: str | None = None) -> "Future[Accepted]":
        """Let events be written; the future has their places when they are on the disk.

        A request with the `key` of an earlier one gets the places of that one. Raises RefusedError at once when the
        spool takes no events; the future may raise it, too, and OtherBodyError.
        """
        digest = hashlib.sha256(key.encode()).hexdigest()[:32] if key is not None else None
        body = hashlib.sha256(events.lines).hexdigest()[:32] if key is not None else ""
        request = _Request(events=events, key=digest, body=body, future=Future())
        with self._news:
            self._require_open()
            self._waiting.append(request)
            self._waiting_bytes += len(events.lines)
            self._news.notify()
        return request.future

    def _require_open(self) -> None:
        if self._broken is not None:
            raise RefusedError("the disk of the spool has lost a write: the collector must be started again", 30)
        if self._is_closing:
            raise RefusedError("the collector ends", 5)
        if time.monotonic() < self._full_until:
            raise RefusedError("the disk of the spool is full", 5)
        if self._bytes > self._limits.most_bytes and time.monotonic() - self._counted_at > _COUNT_SECONDS:
            self._count_bytes()
        if self._bytes > self._limits.most_bytes:
            raise RefusedError("too many events wait to be loaded", 5)
        if self._waiting_bytes > self._limits.waiting_bytes:
            raise RefusedError("too many events wait for the disk", 1)

    def close(self) -> None:
        """Write what was submitted, end the segment, and let another process have the spool."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join()
        os.close(self._lock)

    def _locked(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        segments.flush_folder(self._folder.parent)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BusyError(
                f"another collector writes the spool {self._folder}", hint="give this one another --spool"
            ) from None
        return lock

    def _begin(self) -> None:
        """End what a crash has left, and continue the stream of today."""
        found = segments.streams(self._folder)
        for stream in found:
            segments.recover(stream)
            for segment in stream.segments():
                for group in segments.groups(segment.path):
                    self._note(stream.name, group.notes)
        self._count_bytes()
        if found and found[-1].day == self._today():
            try:
                self._end = segments.end_of(found[-1])
            except DamagedError as error:
                log.error("segment_damaged", reason=str(error), then="the events of today continue in a new stream")  # noqa: TRY400 - the reason says all
            else:
                self._stream = found[-1]

    def _note(self, stream: str, notes: Sequence[Note]) -> None:
        for note in notes:
            self._known[note.key] = (stream, note)
        while len(self._known) > KNOWN_KEYS:
            self._known.popitem(last=False)

    # The thread

    def _write_all(self) -> None:
        while (requests := self._next()) is not None:
            if requests := [request for request in requests if request.future.set_running_or_notify_cancel()]:
                self._write(requests)
            if self._file is not None and self._segment_is_done():
                self._end_segment()
        self._end_segment()

    def _next(self) -> list[_Request] | None:
        """Wait for requests, or for the end of the segment; None: the spool is closed, and nothing is left."""
        with self._news:
            while not self._waiting and not self._is_closing:
                left = None if self._file is None else self._ends_at - time.monotonic()
                if left is not None and left <= 0:
                    return []
                self._news.wait(left)
            if not self._waiting:
                return None
            count = size = 0
            while count < len(self._waiting) and size < GROUP_BYTES:
                size += len(self._waiting[count].events.lines)
                count += 1
            requests, self._waiting = self._waiting[:count], self._waiting[count:]
            self._waiting_bytes -= size
            return requests

    def _segment_is_done(self) -> bool:
        return self._segment_bytes >= self._limits.segment_bytes or time.monotonic() >= self._ends_at

    def _write(self, requests: Sequence[_Request]) -> None:
        """Write one group, flush it, and acknowledge its requests."""
        try:
            self._open_segment()
            group, places = self._group(requests)
            if group.events:
                self._flush(group)
        except OSError as error:
            self._refuse(requests, error)
            return
        self._note(self._name, group.notes)
        for request, place in zip(requests, places, strict=True):
            if isinstance(place, Accepted):
                request.future.set_result(place)
            else:
                request.future.set_exception(place)

    @property
    def _name(self) -> str:
        return "" if self._stream is None else self._stream.name

    def _group(self, requests: Sequence[_Request]) -> tuple[Group, list[Accepted | OtherBodyError]]:
        """Return the group of these requests, and the places of each; one that comes again is not written again."""
        places: list[Accepted | OtherBodyError] = []
        lines: list[bytes] = []
        notes: dict[str, Note] = {}
        at, count = self._end, 0
        for request in requests:
            key = request.key or ""
            stream, note = (self._name, notes[key]) if key in notes else self._known.get(key, ("", None))
            if request.key is not None and note is not None:
                offsets = Events(lines=b"", lengths=note.lengths).offsets
                is_same = note.body == request.body
                again = Accepted(stream=stream, offsets=[note.offset + offset for offset in offsets], is_repeat=True)
                places.append(again if is_same else OtherBodyError())
                continue
            events = request.events
            places.append(Accepted(stream=self._name, offsets=[at + offset for offset in events.offsets]))
            if request.key is not None:
                notes[key] = Note(request.key, request.body, at, list(events.lengths))
            lines.append(events.lines)
            at, count = at + len(events.lines), count + len(events.lengths)
        return Group(self._end, count, b"".join(lines), list(notes.values())), places

    def _open_segment(self) -> None:
        """Begin a segment if none is open, and a stream if this is another day."""
        today = self._today()
        if self._stream is None or self._stream.day != today:
            if self._file is not None:
                self._end_segment()
            name = segments.new_name(self._folder.name, today)
            stream = Stream(name=name, folder=self._folder / name)
            stream.folder.mkdir(mode=0o700)
            segments.flush_folder(self._folder)
            self._stream, self._end = stream, 0
        if self._file is None:
            self._path = self._stream.folder / segments.name_of(self._end, is_ended=False)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                segments.flush_folder(self._stream.folder)  # What is written to a file without a name is lost.
            except OSError:
                os.close(file)
                self._path.unlink()
                raise
            self._file, self._segment_bytes = file, 0
            self._ends_at = time.monotonic() + self._limits.segment_seconds

    def _flush(self, group: Group) -> None:
        """Write a group and wait for the disk.

        Raises OSError; then the segment ends before the group, or the spool is broken.
        """
        if self._file is None:
            return
        data = memoryview(segments.encode(group))
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._cut_off(error)
            raise
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._broken = error
            with suppress(OSError):
                os.ftruncate(self._file, self._segment_bytes)
            raise
        self._segment_bytes = os.lseek(self._file, 0, os.SEEK_CUR)
        self._end = group.end

    def _cut_off(self, error: OSError) -> None:
        """Remove what was written of a group that did not fit."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._segment_bytes)
            os.lseek(self._file, self._segment_bytes, os.SEEK_SET)
        except OSError:
            self._broken = error

    def _refuse(self, requests: Sequence[_Request], error: OSError) -> None:
        """Acknowledge nothing, and take nothing for a while; for good after a write that was lost."""
        if self._broken is None and error.errno not in _FULL:
            self._broken = error
        event = "spool_full" if self._broken is None else "spool_broken"
        hint = "make room" if self._broken is None else "start the collector again; what was acknowledged is kept"
        log.error(event, spool=str(self._folder), reason=reason_of(error), hint=hint)
        with self._news:
            self._full_until = time.monotonic() + _FULL_SECONDS
            late = [request for request in self._waiting if request.future.set_running_or_notify_cancel()]
            refused, self._waiting, self._waiting_bytes = [*requests, *late], [], 0
            try:
                self._require_open()
            except RefusedError as refusal:
                reason = refusal
            else:
                reason = RefusedError("the disk of the spool is full", 5)
        for request in refused:
            request.future.set_exception(reason)

    def _end_segment(self) -> None:
        """Give the segment its final name, unless it is empty or a write was lost."""
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        if self._broken is not None:
            return  # The next start writes its groups again.
        try:
            if self._segment_bytes:
                self._path.rename(self._path.with_suffix(".seg"))
            else:
                self._path.unlink()
            segments.flush_folder(self._path.parent)
            if time.monotonic() - self._counted_at > _COUNT_SECONDS:
                self._count_bytes()
        except OSError as error:
            self._broken = error
            log.error("spool_broken", spool=str(self._folder), reason=reason_of(error))  # noqa: TRY400 - the reason says all

    def _count_bytes(self) -> None:
        """Count the bytes of the spool: the loader removes what is loaded."""
        self._counted_at = time.monotonic()
        total = 0
        for stream in segments.streams(self._folder):
            for segment in stream.segments():
                with suppress(FileNotFoundError):
                    total += segment.path.stat().st_size
        self._bytes = total
