"""The fingerprint of a source: a hash over its records that grows with them, and its marks. Pure.

The fingerprint covers the decompressed bytes from the begin of the first record to the end of the last one; a CR LF
counts as an LF. Each array or object of records that follows another one in the same source adds one line feed before
its first record. A mark says: after so many records and bytes the hash is this. Two sources that have the same mark
begin with the same records.

The digest of a record is a hash of its own, by which the record is known again in another source.
"""

import struct
from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple

import xxhash

from etl.ingestion.constants import CELL_BYTES

CRLF, LF = b"\r\n", b"\n"

_SIGN = 1 << 63

_DIGEST_VERSION = 1
"""Raised when this tool makes other rows of the same records: after that, each record counts as changed once."""


class Mark(NamedTuple):
    """The hash of the first `records` records, which end at byte `end` of the fingerprint: a signed 64-bit integer."""

    records: int
    end: int
    hash: int


class Fingerprint:
    """The fingerprint of the records that were added so far."""

    def __init__(self, records: int = 0, end: int = 0, hashed: xxhash.xxh3_64 | None = None) -> None:
        self.records = records
        self.end = end
        self._hash = xxhash.xxh3_64() if hashed is None else hashed

    def copy(self) -> "Fingerprint":
        """Return a fingerprint of the same records, to which others can be added."""
        return Fingerprint(self.records, self.end, self._hash.copy())

    def add(self, data: bytes | memoryview, records: int) -> None:
        """Add the bytes after the last record through the end of the last of `records` further ones."""
        self._hash.update(data)
        self.end += len(data)
        self.records += records

    @property
    def mark(self) -> Mark:
        """The mark after the records that were added."""
        number = self._hash.intdigest()
        return Mark(self.records, self.end, number - 2 * _SIGN if number >= _SIGN else number)


NOTHING = Fingerprint().mark
"""The mark of a source without records."""


def as_hashed(data: bytes) -> bytes:
    """Return bytes as the fingerprint takes them."""
    return data.replace(CRLF, LF) if b"\r" in data else data


def is_own(records: int, end: int, previous_end: int) -> bool:
    """Return whether every reader of a source makes a mark after a record; the record before ends at `previous_end`.

    This depends on the bytes of the source alone: the records 1, 2, 4, 8 ... that end within the first cell, and the
    first record that ends at or after each multiple of CELL_BYTES.
    """
    return _is_power(records) if end < CELL_BYTES else end // CELL_BYTES > previous_end // CELL_BYTES


def powers_between(after: int, last: int) -> list[int]:
    """Return the powers of two that are more than `after` and at most `last`."""
    powers = []
    power = 1 << after.bit_length()
    while power <= last:
        powers.append(power)
        power *= 2
    return powers


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0


class RecordDigests:
    """Makes the digests of records: a record with the digest of the loaded row is unchanged.

    A digest is made of the bytes of a record, without what separates it from others, and of the definition: the same
    bytes may become other rows by another definition, or from a source with another name. Equal values that are written
    in another way have another digest, and are loaded again.
    """

    def __init__(self, definition: int) -> None:
        self._seed = definition % (1 << 64) ^ _DIGEST_VERSION

    def of(self, texts: Iterable[bytes]) -> tuple[int, ...]:
        """Return the digests of records, which are given as they are written; a keyed record with its key.

        They are signed 64-bit integers, as a column of the database holds them.
        """
        joined = b"".join(map(xxhash.xxh3_64_digest, texts, repeat(self._seed)))
        return struct.unpack(f">{len(joined) // 8}q", joined)
