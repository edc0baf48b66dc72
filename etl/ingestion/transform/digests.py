"""The digests of records: a record with the digest of the loaded row is unchanged. Pure.

A digest is made of the bytes of a record, without what separates it from others, and of the definition: the same bytes
may become other rows by another definition, or from a source with another name. Equal values that are written in
another way have another digest, and are loaded again.
"""

import struct
from collections.abc import Iterable
from itertools import repeat

import msgspec
import xxhash

from etl.datasets import Dataset
from etl.ingestion.framing.spans import Spans
from etl.ingestion.values import Piece

_VERSION = 1
"""Raised when this tool makes other rows of the same records: after that, each record counts as changed once."""


class Digests:
    """Makes the digests of the records of a dataset, as the signed integers that a column of the database holds."""

    def __init__(self, dataset: Dataset) -> None:
        # A policy for duplicates decides between records, and not which rows they become.
        self._seed = int(msgspec.structs.replace(dataset, on_duplicate=None).hash, 16) ^ _VERSION

    def of(self, texts: Iterable[bytes]) -> tuple[int, ...]:
        """Return the digests of records, which are given as they are written; a keyed record with its key."""
        joined = b"".join(map(xxhash.xxh3_64_digest, texts, repeat(self._seed)))
        return struct.unpack(f">{len(joined) // 8}q", joined)

    def of_piece(self, piece: Piece) -> list[int]:
        """Return the digests of the records of a piece, in order."""
        digests: list[int] = []
        for begin, end in piece.blocks or ((0, piece.length),):
            digests += self.of(Spans(piece.between(begin, end), piece.shape).wholes)
        return digests
