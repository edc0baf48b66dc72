"""A piece -> its batch, by one of two lanes that give the same rows.

The fast lane decodes a block of records into JSON tokens and sends the tokens of those that it can vouch for; every
other record goes through the careful lane, value by value, as do all of a batch that the server refuses. The careful
lane alone: `--decoder ijson`.
"""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import compress, islice, repeat
from typing import Any, cast

import msgspec

from etl.datasets import LINEAGE, Dataset
from etl.errors import InternalError
from etl.ingestion import records
from etl.ingestion.projection import Gathered, Projection
from etl.ingestion.shapes import Items, NoShape, Seen, Shape, shape
from etl.ingestion.tokens import SEPARATOR, Token, kind_together, vouched_together
from etl.ingestion.values import Batch, Fault, Piece, Rows

_AT_ONCE = 256
"""Records that the careful lane takes before something else may be done."""

_FOR_A_WHILE = 64
_FOR_A_LITTLE = 8
"""Batches for which a closer look is taken at once after the server refused one: what is refused rarely comes alone."""

Guarded = frozenset[tuple[str, str]]

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_join = SEPARATOR.join

_UNDECODED = (msgspec.MsgspecError, ValueError, RecursionError)


class CarefulLane:
    """Decodes with ijson and converts value by value."""

    def __init__(self, projection: Projection, run_number: int) -> None:
        self._projection = projection
        self._run_number = run_number

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        places = range(1, piece.count + 1)
        gathered = self._projection.gather(piece, self._run_number)
        found = zip(places, records.decode(piece), strict=True)
        while taken := list(islice(found, _AT_ONCE)):
            for place, record in taken:
                gathered.add(place, record)
            yield None
        yield Batch(piece=piece, places=places, tables=gathered.tables(), rejected=tuple(gathered.rejected))


class FastLane:
    """Decodes a block of records into tokens, which the server converts.

    `guarded` are the columns, by table and name, whose limits the tables check themselves; without any it is strict.
    """

    def __init__(self, seen: Shape, projection: Projection, run_number: int, guarded: Guarded = frozenset()) -> None:
        self._shape = seen
        self._projection = projection
        self._run_number = run_number
        self._run = b"%d" % run_number
        self._one = msgspec.json.Decoder(seen.record).decode
        self._all = msgspec.json.Decoder(cast(Any, list)[seen.record]).decode
        self._none = seen.record()
        self._guarded = guarded

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each block, and the batch at the end of the piece."""
        gathered = self._projection.gather(piece, self._run_number)
        tables = [_Table(table.name, columns, self._guarded) for table, _, columns in self._shape.tables]
        place = 1
        for begin, end in piece.blocks or ((0, len(piece.data)),):
            block = _Block(piece, begin, end)
            place += self._add(block, place, b"%d" % piece.offset, tables, gathered)
            yield None
        if place != piece.count + 1:
            raise InternalError(f"of {piece.count} records at byte {piece.offset} {place - 1} were decoded")
        yield Batch(
            piece=piece,
            places=range(1, place),
            tables=tuple(
                (Rows(format="csv", buffer=table.buffer, count=table.count, columns=table.columns), *careful)
                for table, careful in zip(tables, gathered.tables(), strict=True)
            ),
            rejected=tuple(gathered.rejected),
            lane="fast" if self._guarded else "strict",
        )

    def _add(self, block: "_Block", first: int, offset: bytes, tables: "Sequence[_Table]", gathered: Gathered) -> int:
        """Add the rows of a block; return how many records it holds."""
        found, suspects = self._decoded(block)
        places = [b"%d" % place for place in range(first, first + len(found))]
        rows = []
        for table, (_, items_of, _) in zip(tables, self._shape.tables, strict=True):
            items = items_of(found)
            rows.append((table, items, table.rows(items, self._run, offset, places, suspects)))
        for table, items, lines in rows:
            table.add(items, lines, suspects)
        for suspect in sorted(suspects):
            gathered.add(first + suspect, records.decode_one(block.texts[suspect]))
        return len(found)

    def _decoded(self, block: "_Block") -> tuple[list[Any], set[int]]:
        """Return the records of a block and the places, from 0, of those that are not as the dataset names them."""
        if block.is_utf8:
            try:
                if block.shape == "array":
                    return self._all(block.bracketed), set()
                return list(map(self._one, block.lines)), set()
            except _UNDECODED:
                pass
        found: list[Any] = []
        suspects: set[int] = set()
        for place, text in enumerate(block.texts):
            record = self._none if isinstance(text, Fault) else self._decoded_one(text)
            found.append(self._none if record is None else record)
            if record is None or isinstance(text, Fault):
                suspects.add(place)
        return found, suspects

    def _decoded_one(self, text: bytes) -> Any:
        try:
            text.decode()
            return self._one(text)
        except _UNDECODED:
            return None


class _Block:
    """A part of a piece that is decoded as one."""

    def __init__(self, piece: Piece, begin: int, end: int) -> None:
        self.shape = piece.shape
        # In brackets it is one JSON array; the copy that adds them is the only one.
        self.bracketed = b"".join((b"[", memoryview(piece.data)[begin:end], b"]"))
        self._texts: Sequence[bytes | Fault] | None = None

    @property
    def data(self) -> bytes:
        return self.bracketed[1:-1]

    @property
    def is_utf8(self) -> bool:
        if self.bracketed.isascii():
            return True
        try:
            self.bracketed.decode()
        except UnicodeDecodeError:
            return False
        return True

    @property
    def lines(self) -> list[bytes]:
        return self.data.split(b"\n")

    @property
    def texts(self) -> Sequence[bytes | Fault]:
        """The records as they are written, or why they are none."""
        if self._texts is None:
            self._texts = self._split()
        return self._texts

    def _split(self) -> list[bytes | Fault]:
        if self.shape == "array":
            try:
                return list(map(bytes, _values(self.bracketed)))
            except _UNDECODED:
                pass
        return list(records.texts(Piece(offset=0, count=0, first_record=1, data=self.data, shape=self.shape)))


class _Table:
    """The rows of one table that the fast lane vouches for."""

    def __init__(self, name: str, columns: Sequence[Seen], guarded: Guarded) -> None:
        self.buffer = BytesIO()
        self.count = 0
        together: dict[str, list[Seen]] = {}
        self._alone: list[Seen] = []
        for seen in columns:
            kind = kind_together(seen.column, is_guarded=(name, seen.column.name) in guarded)
            (self._alone if kind is None else together.setdefault(kind, [])).append(seen)
        self._together = list(together.items())
        ordered = [*(seen for _, group in self._together for seen in group), *self._alone]
        self.columns = (*(seen.column.name for seen in ordered), *LINEAGE)

    def rows(self, items: Items, run: bytes, offset: bytes, places: Sequence[bytes], suspects: set[int]) -> list[bytes]:
        """Return the lines of CSV, and add the records that hold a token which nothing vouches for to the suspects."""
        if not items.items:
            return []
        fields: list[Iterable[Token]] = [self._group(kind, group, items, suspects) for kind, group in self._together]
        fields += [_column(seen, items, suspects) for seen in self._alone]
        owners = items.owners
        own = places if owners is None else [places[owner] for owner in owners]
        return list(map(_join, zip(*fields, repeat(run), repeat(offset), own)))

    @staticmethod
    def _group(kind: str, group: Sequence[Seen], items: Items, suspects: set[int]) -> list[bytes]:
        rows = list(map(_join, zip(*(seen.take(items) for seen in group), strict=True)))
        vouched = vouched_together(kind, rows)
        if vouched is None:
            vouched = list(map(_join, zip(*(_column(seen, items, suspects) for seen in group), strict=True)))
        return vouched

    def add(self, items: Items, lines: list[bytes], suspects: set[int]) -> None:
        """Keep the lines but those of the suspects."""
        if suspects:
            owners = range(len(lines)) if items.owners is None else items.owners
            lines = list(compress(lines, (owner not in suspects for owner in owners)))
        if lines:
            self.buffer.write(b"\n".join(lines))
            self.buffer.write(b"\n")
            self.count += len(lines)


def _column(seen: Seen, items: Items, suspects: set[int]) -> Iterable[Token]:
    """Return the fields of one column, and add the records whose token nothing vouches for to the suspects."""
    if seen.vouch is None:
        return seen.take(items)
    found: set[int] = set()
    fields = seen.vouch(list(seen.take(items)), found)
    suspects |= found if items.owners is None else {items.owners[place] for place in found}
    return fields


class Lanes:
    """Which lane a piece takes: the fast one, and for a while another where the server refused batches of it."""

    def __init__(self, fast: FastLane | None, strict: FastLane | None, careful: CarefulLane) -> None:
        self._fast = fast
        self._strict = strict
        self._careful = careful
        self._strict_for = 0
        self._careful_for = 0

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        lane: FastLane | CarefulLane = self._fast or self._careful
        if self._strict_for and self._strict:
            self._strict_for -= 1
            lane = self._strict
        if self._careful_for:
            self._careful_for -= 1
            lane = self._careful
        return lane.batching(piece)

    def again(self, refused: Batch) -> Iterator[Batch]:
        """Yield a batch that the server refused as the lanes make it that look closer."""
        if refused.lane == "fast" and self._strict:
            self._strict_for = _FOR_A_WHILE
            yield from (batch for batch in self._strict.batching(refused.piece) if batch is not None)
        if refused.lane != "careful":
            self._careful_for = _FOR_A_LITTLE
            yield from (batch for batch in self._careful.batching(refused.piece) if batch is not None)


def fast(dataset: Dataset) -> Shape | str:
    """Return the dataset as the fast lane sees it, or why it cannot."""
    try:
        return shape(dataset)
    except NoShape as reason:
        return str(reason)
