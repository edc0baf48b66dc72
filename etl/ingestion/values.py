"""The values that travel along the line: source, piece, batch, rejected record, entry in the ledger. Pure."""

import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from io import BytesIO, RawIOBase, StringIO
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import xxhash

from etl.ingestion.fingerprints import LF, Fingerprint, Mark, as_hashed
from etl.quick_dataclasses import dataclass

PieceShape = Literal["array", "lines", "values", "members", "keyed"]
"""How the records of a piece are written: as elements of an array, one per line, as values one after the other, as
members of an object with their keys, or one per line as an object whose only member is the record with its key.
"""

LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")
"""Translates the line ends between the tokens of a record to spaces, so that the record fits one line."""

KEY: Final[Any] = None
"""The name under which a keyed record holds its key: no member of a JSON object can have this name."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive, with its bytes; in a tar archive it begins at `offset` of the decompressed archive."""

    name: str
    size: int
    offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file or stream that holds records.

    `name` is shown in messages, logs and the ledger, and has no secret. The bytes come from the file at `path`, from
    `url`, which may have a secret, from `given`, which gives a program's own bytes once, or else from standard input.
    `encoding` is "auto" or a name that Python knows. With `is_lines` each line is a record, whatever the options say.
    With a `member` the file at `path` is an archive, and the source is this file in it.
    """

    name: str
    path: str | None
    url: str | None = field(default=None, repr=False)
    encoding: str = "auto"
    given: RawIOBase | None = field(default=None, repr=False, compare=False)
    is_lines: bool = False
    member: Member | None = None


class ByteStream(Protocol):
    """The decompressed bytes of a source, read once from the front."""

    source: Source
    is_idle: bool
    """Whether the last read gave fewer bytes, because no others came for long."""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end, before a fault or where the stream is idle; none at the end only.

        Raises SourceError at a fault, and again at each further call.
        """


@dataclass(frozen=True, kw_only=True)
class Block:
    """Bytes that may be whole records of the piece at `offset`; the first is its record number `place` (from 1)."""

    data: bytes = field(repr=False)
    shape: PieceShape
    offset: int
    place: int


class Prover(Protocol):
    """Decodes a block for rows of its own, which proves that the block holds whole records."""

    def prove(self, block: Block) -> "Proof | None":
        """Return how many records a block holds, or None where the cutter has to check the block itself."""


class Span(NamedTuple):
    """Where a record is in its piece; `fault` says why the record is no JSON object, or is empty."""

    start: int
    end: int
    fault: str = ""


class BlockRows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a block: for each table its lines of CSV and their number.

    The lines of a table that is divided by a time come by the first bytes of each, which name its month or day: rows of
    a partition are sent together, because a change of the partition costs the server. Others come under no bytes.
    `suspects` are the records that need a closer look, by their places in the piece, with their spans in the block.
    Those of `undecoded` did not decode. `maker` is the prover that made the rows. `coerced` counts for each column the
    texts in the rows that it does not store as they are written. `digests` are those of the suspects, by their places,
    if a table takes digests. `unknown` counts the records that decoded by their
    unknown members, and `unknown_others` those by members that are not named, if the definition warns of them.
    """

    maker: Prover
    count: int
    tables: Sequence[tuple[Mapping[bytes, bytes], int]]
    suspects: Sequence[tuple[int, Span]]
    coerced: Mapping[str, int] = msgspec.field(default_factory=dict)
    undecoded: Collection[int] = ()
    digests: Mapping[int, int] = msgspec.field(default_factory=dict)
    unknown: Mapping[str, int] = msgspec.field(default_factory=dict)
    unknown_others: int = 0


class Proof(NamedTuple):
    """Proof that a block holds `records` whole records; `rows` are the prover's by-product (the fast path's rows)."""

    records: int
    rows: BlockRows | None = None


def printable_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text for logs and the ledger; a byte that is not UTF-8 is shown by its number."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def hash_of(*parts: bytes) -> bytes:
    """Return the hash that identifies the bytes of a piece in the ledger; the bytes may come in several parts."""
    hashed = xxhash.xxh3_128()
    for part in parts:
        hashed.update(part)
    return hashed.digest()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive whole records of a source as bytes.

    `offset` is the byte (from 0) at which the piece begins in the decompressed source, `first_record` the number
    (from 1) of its first record. Commas separate the records of an "array" and of "members", white space the others.
    `parts` are its bytes in order; `data` joins them. `blocks` are ranges of these bytes, each of whole records that
    are decoded together; `block_rows` are the rows that the proof of each block made, if any. `which` is the place
    (from 0) of the piece's records path among the paths by which the source is cut; numbers count the records of one
    path. `gap` are the bytes between the record before and the first one, in the same array or object; `start` is the
    fingerprint of all bytes before the first record, `before` is the mark after the record before, `marks` are
    those that every reader makes of the records of the piece, and `end_mark` is the mark after its last record.
    `is_heavy`: a record may be so deep or so large that it is not decoded as a whole. `gaps` are ranges of the bytes
    that lie between two arrays, such as those of two pages; `data` has a comma and blanks there.
    """

    offset: int
    count: int
    first_record: int
    parts: tuple[bytes, ...] = field(repr=False)
    shape: PieceShape
    which: int = 0
    blocks: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)
    block_rows: tuple[BlockRows | None, ...] = field(default=(), repr=False, compare=False)
    gap: bytes = field(default=b"", repr=False, compare=False)
    start: Fingerprint | None = field(default=None, repr=False, compare=False)
    before: Mark | None = field(default=None, repr=False, compare=False)
    marks: tuple[Mark, ...] = field(default=(), repr=False, compare=False)
    end_mark: Mark | None = field(default=None, repr=False, compare=False)
    is_heavy: bool = False
    gaps: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def stored(self) -> bytes:
        """The bytes of the piece as they are in the source, joined."""
        return b"".join(self.parts)

    @cached_property
    def data(self) -> bytes:
        """The bytes of the piece, joined: its records with what separates them."""
        if not self.gaps:
            return self.stored
        whole = bytearray(self.stored)
        for begin, end in self.gaps:
            whole[begin:end] = b",".ljust(end - begin)
        return bytes(whole)

    def hashed(self, begin: int, end: int) -> bytes:
        """Return some of the bytes as the fingerprint takes them: between two arrays is one line feed."""
        parts = []
        for first, last in self.gaps:
            if begin <= first and last <= end:
                parts += [as_hashed(self.between(begin, first)), LF]
                begin = last
        return b"".join((*parts, as_hashed(self.between(begin, end))))

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.parts)))

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self._ends[-1] if self.parts else 0

    def between(self, begin: int, end: int) -> bytes:
        """Return some of the bytes, without joining all of them, which costs as much as decoding a tenth."""
        chunks = []
        which = bisect_right(self._ends, begin)
        while begin < end and which < len(self.parts):
            part, part_end = self.parts[which], self._ends[which]
            chunks.append(part[begin - part_end + len(part) : end - part_end + len(part)])
            begin, which = part_end, which + 1
        return b"".join(chunks)

    @cached_property
    def hash(self) -> bytes:
        """The hash of the bytes."""
        return hash_of(*self.parts)

    @property
    def is_keyed(self) -> bool:
        """Whether each record has a key."""
        return self.shape in {"members", "keyed"}

    def text(self, span: Span) -> bytes:
        """Return a record as it is written; a member with its key as an object of its own."""
        written = self.between(span.start, span.end)
        return b"{%b}" % written if self.shape == "members" else written

    @property
    def end(self) -> int:
        """The byte after the last record."""
        return self.offset + (self.blocks[-1][1] if self.blocks else self.length)

    @property
    def last_record(self) -> int:
        """The number (from 1) of its last record."""
        return self.first_record + self.count - 1


@dataclass(frozen=True, kw_only=True)
class LoadedRange:
    """A batch of the ledger: its bytes and records in the source, and the xxh3 hash of its bytes."""

    offset: int
    length: int
    count: int
    first_record: int
    hash: bytes

    @property
    def end(self) -> int:
        """The byte after the last record."""
        return self.offset + self.length

    @property
    def last_record(self) -> int:
        """The number (from 1) of its last record."""
        return self.first_record + self.count - 1


class Misfit(Exception):
    """A value does not fit its column: the SQLSTATE that PostgreSQL would give, and a sentence without the value."""

    def __init__(self, sqlstate: str, reason: str) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate
        self.reason = reason

    @property
    def is_violation(self) -> bool:
        """Whether a check failed or a value is missing; else the type or the form of the value is wrong."""
        return self.sqlstate.startswith("23")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a record cannot load: table and column, PostgreSQL's SQLSTATE, and a sentence without any value."""

    sqlstate: str
    reason: str
    table: str | None = None
    column: str | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A record that can never load as it is: its place in the piece (from 1), its key as text, and the fault."""

    place: int
    key: str | None
    fault: Fault


class RowParts(Protocol):
    """Rows that are not all in memory."""

    def parts(self) -> Iterator[bytes]:
        """Yield the bytes of the rows, some at a time."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one table for COPY: in COPY's text format, or as CSV made of JSON tokens.

    `buffers` hold the rows in order, each of them whole rows; `count` is their number. `columns` is the order of the
    fields, with the lineage, if it differs from the definition's.
    """

    format: Literal["text", "csv"]
    buffers: tuple[StringIO | BytesIO | RowParts, ...]
    count: int
    columns: tuple[str, ...] | None = None

    def encoded(self) -> Iterator[bytes]:
        """Yield the bytes to send, at most a buffer at a time; a buffer of bytes is not copied."""
        for buffer in self.buffers:
            if isinstance(buffer, BytesIO):
                yield buffer.getvalue()
            elif isinstance(buffer, StringIO):
                yield buffer.getvalue().encode()
            else:
                yield from buffer.parts()


@dataclass(frozen=True, kw_only=True)
class PolicyEffects:
    """The effects of policies: records without their NUL characters, records with a duplicate key, unknown members.

    `unknown` counts the records that have each unknown member, rejected records too; `unknown_others` adds up such
    counts of members that are not named, because too many have different names.
    `coerced` counts for each column, by table and name, the texts that it does not store as they are written.
    `kept_rows` are the rows of each table without those of the duplicates, if a policy kept some out of the tables.
    """

    nul_stripped: int = 0
    duplicates: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    unknown_others: int = 0
    coerced: Mapping[str, int] = field(default_factory=dict)
    kept_rows: tuple[int, ...] = ()

    def with_unknown_of(self, other: "PolicyEffects") -> "PolicyEffects":
        """Return these effects with the unknown members of others, of other records, added."""
        unknown = dict(self.unknown)
        for name, count in other.unknown.items():
            unknown[name] = unknown.get(name, 0) + count
        return replace(self, unknown=unknown, unknown_others=self.unknown_others + other.unknown_others)

    def frequent_unknown(self, most: int) -> tuple[dict[str, int], int]:
        """Return the unknown members that most records have, and the sum of the counts of the others."""
        ordered = sorted(self.unknown, key=lambda name: (-self.unknown[name], name))
        others = self.unknown_others + sum(self.unknown[name] for name in ordered[most:])
        return {name: self.unknown[name] for name in ordered[:most]}, others

    def document(self) -> dict[str, Any]:
        """Return the effects that occurred, as a JSON object."""
        effects = {name: value for name, value in vars(self).items() if value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in effects.items()}


@dataclass(frozen=True, kw_only=True)
class Unmade:
    """The rows of a batch before they are made.

    `keys` are the keys of records with their places and digests. `make` returns the batch with the rows of all records
    but the unchanged ones, which are given by their places.
    """

    keys: Rows
    make: "Callable[[Collection[int]], Batch]"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The rows of one piece, for each table of the dataset, and the records that can never load.

    `places` are the places of the records in their piece; a replay keeps those of the original piece. `path` is the
    path that made the batch: "fast" leaves checks to the server that its tables make themselves, "strict" makes all
    checks, "checked" converts value by value. `maker` is that path if it can look at single columns more closely.
    `spans` are the spans of some records in the piece, by place. `unmade`: the rows are made when it is known which
    records changed; until then `tables` and `rejected` are empty. `compares`: records may turn out to be unchanged.
    """

    piece: Piece
    places: Sequence[int]
    tables: tuple[tuple[Rows, ...], ...]
    rejected: tuple[Rejected, ...]
    path: Literal["fast", "strict", "checked"] = "checked"
    maker: Prover | None = field(default=None, repr=False, compare=False)
    policy_effects: PolicyEffects = PolicyEffects()
    spans: Mapping[int, Span] = field(default_factory=dict, repr=False)
    unmade: Unmade | None = field(default=None, repr=False, compare=False)
    compares: bool = True

    @property
    def made(self) -> "Batch":
        """The batch with the rows of all its records."""
        return self if self.unmade is None else self.unmade.make(())

    @property
    def rows(self) -> tuple[int, ...]:
        """The number of rows of each table."""
        return tuple(sum(part.count for part in parts) for parts in self.tables)


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """The result of sending a batch: the rows kept of each table, and the faults of the refused records, by place.

    `duplicates` counts the records with the key of an earlier record, for a merge or a policy. `kept_rows` are the rows
    of each table without those of the duplicates, if the policy keeps these out of the tables. `unchanged` counts the
    records that were loaded already in the same version, and of which no row was sent or kept. `firsts` are the updates
    of rows that got only a first value of an older version.
    """

    rows: tuple[int, ...]
    faults: Mapping[int, Fault] = field(default_factory=dict)
    duplicates: int = 0
    kept_rows: tuple[int, ...] = ()
    unchanged: int = 0
    firsts: int = 0


class StoredRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A refused record as the failed store describes it: its number and byte in the source, its key, its fault (C6)."""

    record: int
    offset: int
    key: str | None
    table: str | None
    column: str | None
    sqlstate: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file of the failed store: the original `lines`, one per record, and the description of each record (C6).

    `document` are the members of the document above the records that their columns take, as JSON.
    """

    id: str
    run: str
    dataset: str
    source: str
    batch: int
    kind: Literal["rejected", "failed"]
    sqlstate: str | None
    message: str
    records: tuple[StoredRecord, ...]
    lines: bytes = field(repr=False)
    sha256: str
    attempts: int = 1
    parent: str | None = None
    is_keyed: bool = False
    document: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a batch: records by outcome, and the rows of each table as COPY counted them.

    `deleted` are the loaded records that deleted their key; None: the dataset has no such records.
    `rows_replaced` are the older versions that a merge wrote over, at most; None where nobody knows. `unchanged` are
    those of the loaded records whose rows stayed as they were.
    """

    loaded: int
    rejected: int
    failed: int
    rows: tuple[int, ...]
    policy_effects: PolicyEffects = PolicyEffects()
    deleted: int | None = None
    rows_replaced: int | None = None
    unchanged: int = 0
