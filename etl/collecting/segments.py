"""The files of a spool: streams are folders, segments are files of groups, each with its place and a hash.

    DATASET/STREAM/00000000000000000000.seg     ended: its name and its bytes are on the disk, and it never changes
    DATASET/STREAM/00000000000004194304.open    the one that the collector writes now

The number is the byte of the stream at which the segment begins. The bytes of a stream are those of its events alone.
"""

import os
import re
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

_MAGIC = b"ETS1"
_HEAD = struct.Struct("<4sIIIQ")
_HASH_BYTES = 16
_EVERYTHING = 1 << 63
_NAME = re.compile(r"(\d{20})\.(seg|open)")
_STREAM = re.compile(r"(.+)-(\d{8})T\d{6}Z-[0-9a-f]{6}")


class Note(msgspec.Struct, frozen=True, array_like=True):
    """A request with an idempotency key: digests of key and body, its first byte, the lengths of its lines."""

    key: str
    body: str
    offset: int
    lengths: list[int]


class Group(NamedTuple):
    """Events that became durable at once: their first byte, their number, their lines, and notes on them."""

    offset: int
    events: int
    lines: bytes
    notes: list[Note]

    @property
    def end(self) -> int:
        """The byte after the last event."""
        return self.offset + len(self.lines)


class DamagedError(Exception):
    """An ended segment does not have the bytes that were written."""


class Segment(NamedTuple):
    """A file of a stream: the byte at which it begins, and whether it has ended."""

    offset: int
    path: Path
    is_ended: bool


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of a spool: the events of one dataset and day, in a folder of their own."""

    name: str
    folder: Path

    @property
    def day(self) -> str:
        """The day (UTC) of its events, as YYYYMMDD."""
        return _parsed(self.name)[1]

    @property
    def newest_ended(self) -> str:
        """The name of the segment that ended last; empty if none has ended."""
        return max((name for name in os.listdir(self.folder) if name.endswith(".seg")), default="")  # noqa: PTH208 - it is asked often

    def segments(self) -> list[Segment]:
        """Return its segments in order."""
        matches = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(Segment(int(match[1]), path, match[2] == "seg") for match, path in matches if match)


def new_name(dataset: str, day: str) -> str:
    """Return a name for a new stream of a dataset and a day; it is that of no other stream, wherever that is."""
    return f"{dataset}-{day}T{datetime.now(UTC):%H%M%S}Z-{secrets.token_hex(3)}"


def dataset_of(stream: str) -> str | None:
    """Return the dataset of a stream by its name; None: this is not the name of a stream."""
    return _parsed(stream)[0] or None


def _parsed(stream: str) -> tuple[str, str]:
    match = _STREAM.fullmatch(stream)
    return (match[1], match[2]) if match else ("", "")


def streams(folder: Path) -> list[Stream]:
    """Return the streams of a dataset in the order in which they began."""
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _STREAM.fullmatch(path.name))
    return [Stream(name=name, folder=folder / name) for name in names]


def name_of(offset: int, *, is_ended: bool) -> str:
    """Return the name of a segment that begins at a byte of its stream."""
    return f"{offset:020d}.{'seg' if is_ended else 'open'}"


def encode(group: Group) -> bytes:
    """Return a group as it is in a segment."""
    notes = msgspec.json.encode(group.notes) if group.notes else b""
    head = _HEAD.pack(_MAGIC, len(group.lines), group.events, len(notes), group.offset)
    return b"".join((head, _hash(head, group.lines, notes), group.lines, notes))


def groups(path: Path) -> Iterator[Group]:
    """Yield the whole groups of a segment, up to the first bytes that are none."""
    return (group for group, _ in _read(path, 0))


def _read(path: Path, after: int) -> Iterator[tuple[Group, int]]:
    """Yield the whole groups of a segment, each with its end in the file.

    The lines of groups that end at byte `after` of the stream or before are not read: they are empty then.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while len(head := file.read(_HEAD.size + _HASH_BYTES)) == _HEAD.size + _HASH_BYTES:
            magic, length, count, noted, offset = _HEAD.unpack_from(head)
            at += len(head) + length + noted
            if magic != _MAGIC or at > size:
                return
            if offset + length <= after:
                file.seek(at)
                yield Group(offset + length, count, b"", []), at
                continue
            lines, notes = file.read(length), file.read(noted)
            if _hash(head[: _HEAD.size], lines, notes) != head[_HEAD.size :]:
                return
            yield Group(offset, count, lines, msgspec.json.decode(notes, type=list[Note]) if notes else []), at


def _hash(head: bytes, lines: bytes, notes: bytes) -> bytes:
    hashed = xxhash.xxh3_128(head)
    hashed.update(lines)
    hashed.update(notes)
    return hashed.digest()


def ended_groups(segment: Segment, after: int = 0) -> Iterator[Group]:
    """Yield the groups of an ended segment that end after a byte of the stream.

    Raises DamagedError when it does not have all the bytes that were written.
    """
    read, expected = 0, segment.offset
    for group, at in _read(segment.path, after):
        if group.lines and group.offset != expected:
            break
        read, expected = at, group.end
        if group.lines:
            yield group
    if read != segment.path.stat().st_size:
        raise DamagedError(f"{segment.path}: the bytes after byte {read:,} of the file are not those that were written")


def end_of(stream: Stream) -> int:
    """Return the byte after the last event of a stream whose segments have all ended.

    Raises DamagedError.
    """
    found = stream.segments()
    return max((group.end for group in ended_groups(found[-1])), default=found[-1].offset) if found else 0


def end_of_segment(segment: Segment) -> int:
    """Return the byte of the stream after the last event of an ended segment, without reading its events."""
    return max((group.offset for group, _ in _read(segment.path, _EVERYTHING)), default=segment.offset)


def count_after(segment: Segment, position: int) -> int:
    """Return how many events of an ended segment begin at a byte of the stream or after it."""
    found = 0
    with segment.path.open("rb") as file:
        while len(head := file.read(_HEAD.size + _HASH_BYTES)) == _HEAD.size + _HASH_BYTES:
            _, length, count, noted, offset = _HEAD.unpack_from(head)
            if offset < position < offset + length:  # A batch has ended within the group.
                file.seek(position - offset, os.SEEK_CUR)
                found += file.read(offset + length - position).count(b"\n")
                file.seek(noted, os.SEEK_CUR)
                continue
            found += count if offset >= position else 0
            file.seek(length + noted, os.SEEK_CUR)
    return found


def recover(stream: Stream) -> None:
    """End the segment that a crash has left open: its whole groups are written to a new file, which is flushed.

    The flush of the file itself may have failed, and then the disk does not have all bytes that are read from it.
    """
    for path in stream.folder.glob("*.tmp"):
        path.unlink()
    for segment in stream.segments():
        if segment.is_ended:
            continue
        ended = segment.path.with_name(name_of(segment.offset, is_ended=True))
        whole = b"".join(map(encode, groups(segment.path)))
        if whole and not ended.exists():
            temporary = ended.with_suffix(".tmp")
            with temporary.open("xb") as file:
                file.write(whole)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(ended)
            flush_folder(stream.folder)
        segment.path.unlink()
    flush_folder(stream.folder)


def flush_folder(folder: Path) -> None:
    """Let the names in a folder be on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
