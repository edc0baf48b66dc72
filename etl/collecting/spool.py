"""The spool of one dataset: events are on the disk before they are acknowledged.

One thread writes. All requests that arrive during a write are the next group: one write and one fdatasync for all of
them. Nothing else waits, so one request alone is as fast as the disk.
"""

import errno
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from etl.collecting import segments
from etl.collecting.buffers import Accepted, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events
from etl.collecting.groups import GroupWriter, Request
from etl.collecting.segments import DamagedError, Group, Note, Stream
from etl.errors import BusyError, DatabaseError, reason_of

KNOWN_KEYS = 100_000

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SECONDS = 1.0
_COUNT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Spool(GroupWriter):
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
        super().__init__(limits or Limits())
        self._folder = folder
        self._today = today
        self._full_until = 0.0
        self._broken: OSError | None = None
        self._known: OrderedDict[str, tuple[str, Note]] = OrderedDict()
        self._stream: Stream | None = None
        self._at = 0
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
        self._start(f"etl-spool-{folder.name}")

    @property
    def is_broken(self) -> bool:
        """Whether a write was lost: no event is accepted until the process is started again."""
        return self._broken is not None

    @property
    def bytes(self) -> int:
        """The bytes of the spool on the disk, as they were counted last, and what was written since then."""
        return self._bytes

    def _require_open(self) -> None:
        if self._broken is not None:
            raise RefusedError("the disk of the spool has lost a write: the collector must be started again", 30)
        if time.monotonic() < self._full_until:
            raise RefusedError("the disk of the spool is full", 5)
        if self._bytes > self._limits.most_bytes and time.monotonic() - self._counted_at > _COUNT_SECONDS:
            self._count_bytes()
        if self._bytes > self._limits.most_bytes:
            raise RefusedError("too many events wait to be loaded", 5)
        super()._require_open()

    def close(self) -> None:
        """Write what was submitted, end the segment, and let another process have the spool."""
        super().close()
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
                self._at = segments.end_of(found[-1])
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

    def _after_group(self) -> None:
        if self._file is not None and self._segment_is_done():
            self._end_segment()

    def _seconds_left(self) -> float | None:
        return None if self._file is None else self._ends_at - time.monotonic()

    def _end(self) -> None:
        self._end_segment()

    def _segment_is_done(self) -> bool:
        return self._segment_bytes >= self._limits.segment_bytes or time.monotonic() >= self._ends_at

    def _write(self, requests: Sequence[Request]) -> None:
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
            request.answer(place)

    @property
    def _name(self) -> str:
        return "" if self._stream is None else self._stream.name

    def _group(self, requests: Sequence[Request]) -> tuple[Group, list[Accepted | OtherBodyError]]:
        """Return the group of these requests, and the places of each; one that comes again is not written again."""
        places: list[Accepted | OtherBodyError] = []
        lines: list[bytes] = []
        notes: dict[str, Note] = {}
        at, count = self._at, 0
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
        return Group(self._at, count, b"".join(lines), list(notes.values())), places

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
            self._stream, self._at = stream, 0
        if self._file is None:
            self._path = self._stream.folder / segments.name_of(self._at, is_ended=False)
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
        end = os.lseek(self._file, 0, os.SEEK_CUR)
        self._bytes += end - self._segment_bytes
        self._segment_bytes = end
        self._at = group.end

    def _cut_off(self, error: OSError) -> None:
        """Remove what was written of a group that did not fit."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._segment_bytes)
            os.lseek(self._file, self._segment_bytes, os.SEEK_SET)
        except OSError:
            self._broken = error

    def _refuse(self, requests: Sequence[Request], error: OSError) -> None:
        """Acknowledge nothing, and take nothing for a while; for good after a write that was lost."""
        if self._broken is None and error.errno not in _FULL:
            self._broken = error
        event = "spool_full" if self._broken is None else "spool_broken"
        hint = "make room" if self._broken is None else "start the collector again; what was acknowledged is kept"
        log.error(event, spool=str(self._folder), reason=reason_of(error), hint=hint)
        with self._news:
            self._full_until = time.monotonic() + _FULL_SECONDS
            try:
                self._require_open()
            except RefusedError as refusal:
                reason = refusal
            else:
                reason = RefusedError("the disk of the spool is full", 5)
        self._refuse_all(requests, reason)

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
