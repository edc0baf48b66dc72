"""The records that are observed: the first ones of a source, and some of its middle and its end.

A source that can be read twice is looked through once more, without a decoder: numbers in quotes that begin with 0 are
looked for in all of it, and some records are decoded at places that are spread over it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from etl.datasets.paths import ACTION, ACTIONS
from etl.errors import SourceError
from etl.inference.observing import Observation
from etl.inference.outside import Outside
from etl.ingestion.framing.boundaries import NotJSON, value_end
from etl.ingestion.framing.decoding import decode, decode_one
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import KEY, Fault, Piece, Source

_PIECE_RECORDS = 1_000
_OUTSIDE_BYTES = 64 << 20
"""So far a document is read on after the sample, to see what follows its records."""

_CHUNK_BYTES = 1 << 20
_PLACES = 16
_RECORDS_OF_PLACE = 200
_PLACE_BYTES = 1 << 16
_OVERLAP = 1_000
_SEARCHED_BYTES = 2 << 30
"""Of a larger source only the places are looked at, and not all of it."""

_READ_BYTES = 1 << 28
"""Of a compressed source so much is read for records further on."""

_EXPANDED = 6
"""So many times the size of a compressed source is that of its content, about."""

_SMALL_BYTES = 1 << 26
"""A source up to this size is read to its end in any case."""

_RECORDS_OF_TAIL = 2_500
_PADDED = re.compile(rb':\s{0,9}"-?0[0-9]+[."]')
"""The colon of a member, and a number in quotes that begins with 0."""

_FIRST_NAMES = 20


@dataclass(kw_only=True)
class Records:
    """The number of records that were observed: the first ones, those further on, and the faults among them.

    `is_all`: there are no others. `end` is the byte after the first ones. `first_names` are the names with which they
    begin. `rest_fault` says why the source could not be read to its end.
    """

    first: int = 0
    further: int = 0
    faults: int = 0
    is_all: bool = False
    end: int = 0
    first_names: set[str] = field(default_factory=set)
    rest_fault: str = ""


def observe_first(stream: Stream, path: str, sample: int | None, root: Observation, outside: Outside) -> Records:
    """Observe the first `sample` records (None: all of them), and what a document has around its records."""
    records = Records()
    options = CutOptions(format="auto", records_path=path, batch_rows=_PIECE_RECORDS, outside=outside)
    pieces = cut(stream, options)
    for piece in pieces:
        left = None if sample is None else sample - records.first
        _observe(islice(decode(piece), left), root, records)
        records.end = piece.offset + piece.length
        if left is not None and piece.count >= left:
            break
    else:
        records.is_all = outside.is_complete = True
        return records
    _read_on(pieces, piece, stream, records, outside, path)
    return records


def _observe(decoded: Iterator[dict[str, Any] | Fault], root: Observation, records: Records) -> None:
    for record in decoded:
        records.first += 1
        if isinstance(record, Fault):
            records.faults += 1
            continue
        record.pop(KEY, None)  # the key is no value of the record itself
        if record and len(records.first_names) < _FIRST_NAMES:
            records.first_names.add(next(iter(record)))
        root.add(_acting(record))


def _acting(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its action, if it has one, under the name by which a path leads to it."""
    for name in ACTIONS:
        if isinstance(record.get(name), dict) and (name.startswith("$") or len(record) == 1):
            action = {ACTION: record[name]} if record[name] else {}
            return action | {other: value for other, value in record.items() if other != name}
    return record


def _read_on(
    pieces: Iterator[Piece], last: Piece, stream: Stream, records: Records, outside: Outside, path: str
) -> None:
    """Read a document to its end for what follows its records, if that is not far; no record is decoded."""
    if path == "item" or stream.waits:
        return
    if stream.size is not None and stream.size - stream.stored_position > _OUTSIDE_BYTES:
        return
    try:
        for piece in pieces:
            if piece.offset - last.offset > _OUTSIDE_BYTES:
                return
    except SourceError as error:
        records.rest_fault = str(error)
        return
    outside.is_complete = True


def observe_rest(
    source: Source, root: Observation, records: Records, numbers: Collection[str], in_quotes: Collection[str]
) -> set[str]:
    """Observe some records of the rest of a source that can be read twice.

    Returns which of the names `numbers` have a number in quotes that begins with 0. `in_quotes` are those of them that
    have numbers in quotes: without them a large source is not searched for such numbers.
    """
    padded: set[str] = set()
    seen = _Seen(root, records)
    try:
        with opened(source) as stream:
            searches_all = bool(in_quotes) or (bool(numbers) and (stream.size or 0) < _SMALL_BYTES)
            for data, place, most in _chunks(stream, records.end, searches_all=searches_all):
                for match in _PADDED.finditer(data):
                    padded.add(_name_before(data, match.start()))
                seen.observe(place, most)
    except SourceError as error:
        records.rest_fault = str(error)
    return padded & set(numbers)


def _name_before(data: bytes, colon: int) -> str:
    """Return the name of the member whose colon is at this byte."""
    end = data.rfind(b'"', max(0, colon - _OVERLAP), colon)
    return data[data.rfind(b'"', max(0, end - _OVERLAP), end) + 1 : end].decode("utf-8", "replace")


def _chunks(stream: Stream, begin: int, *, searches_all: bool) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield parts of a source from a byte on, each with a part of it of which so many records are wanted.

    The wanted parts do not overlap: a record that is observed twice would seem to come again.
    """
    if stream.plain_path and stream.size and (not searches_all or stream.size > _SEARCHED_BYTES):
        yield from _places(stream.plain_path, begin, stream.size)
        return
    last, number, at = b"", 0, 0
    stored = stream.size or _CHUNK_BYTES
    every = max(1, (stored if stream.plain_path else _EXPANDED * stored) // _CHUNK_BYTES // _PLACES)
    most = _SEARCHED_BYTES if searches_all else _READ_BYTES
    while at < most and (data := stream.read(_CHUNK_BYTES)):
        new = data[max(0, begin - at) :]
        at += len(data)
        if not new:
            continue
        number += 1
        is_wanted = number % every == 0
        # A number that the end of a part cuts in two is searched for with the next part.
        yield last[-_OVERLAP:] + new, new[:_PLACE_BYTES] if is_wanted else b"", _RECORDS_OF_PLACE
        last = new if not is_wanted else new[_PLACE_BYTES:]
    yield b"", last[-_PLACE_BYTES:], _RECORDS_OF_TAIL


def _places(path: str, begin: int, size: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield parts of a file that are spread evenly from a byte on; one is at its end."""
    step = (size - begin) // _PLACES
    with open(path, "rb") as file:  # noqa: PTH123 - a path as text
        for place in range(1, _PLACES + 1):
            length = min(step, _PLACE_BYTES)
            file.seek(begin + place * step - length if place < _PLACES else size - length)
            data = file.read(length)
            yield data, data, _RECORDS_OF_PLACE if place < _PLACES else _RECORDS_OF_TAIL


class _Seen:
    """Observes the records in parts of a source that begin and end anywhere."""

    def __init__(self, root: Observation, records: Records) -> None:
        self._root = root
        self._records = records
        names = b"|".join(re.escape(name.encode()) for name in sorted(records.first_names))
        self._begin = re.compile(rb'\{\s{0,20}"(?:%b)"\s{0,9}:' % names) if names else None
        self._usual = {name for name, member in root.members.items() if 2 * member.count >= root.count}

    def observe(self, data: bytes, most: int) -> None:
        """Observe some whole records in a part: those that have most members which the first ones usually have."""
        if self._begin is None:
            return
        text, at, count = data.decode("latin-1"), 0, 0
        while count < most and (match := self._begin.search(data, at)):
            try:
                end = value_end(text, match.start())
            except NotJSON:
                at = match.end()
                continue
            record = decode_one(data[match.start() : end])
            if isinstance(record, Fault) or 2 * len(self._usual & (record := _acting(record)).keys()) < len(
                self._usual
            ):
                at = match.end()
                continue
            self._root.add(record)
            self._records.further += 1
            count, at = count + 1, end
