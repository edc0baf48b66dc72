"""A piece -> its batch, by one of two lanes that give the same rows.

The fast lane decodes a block of records into JSON tokens and sends the tokens of those that it can vouch for; every
other record goes through the careful lane, value by value, as do all of a batch that the server refuses. The careful
lane alone: `--decoder ijson`.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import compress, islice, repeat
from typing import Any, cast

import msgspec

from etl.datasets import Dataset
from etl.errors import InternalError
from etl.ingestion import records
from etl.ingestion.projection import Gathered, Projection
from etl.ingestion.shapes import Items, NoShape, Seen, Shape, shape
from etl.ingestion.tokens import SEPARATOR, Token
from etl.ingestion.values import Batch, Fault, Piece, Rows

_AT_ONCE = 256
"""Records that the careful lane takes before something else may be done."""

_values = msgspec.json.Decoder(list[msgspec.Raw]).decode
_join = SEPARATOR.join

_UNDECODED = (msgspec.MsgspecError, ValueError, RecursionError)


class CarefulLane:
    """Decodes with ijson and converts value by value."""

    def __init__(self, projection: Projection, run_number: int) -> None:
        self._projection = projection
        self._run_number = run_number

    def batch(self, piece: Piece) -> Batch:
        """Return the rows of a piece and the records that can never load."""
        *_, batch = self.batching(piece)
        if batch is None:
            raise InternalError("a piece ended without its batch")
        return batch

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
    """Decodes a block of records into tokens, which the server converts."""

    def __init__(self, seen: Shape, projection: Projection, run_number: int) -> None:
        self._shape = seen
        self._projection = projection
        self._run_number = run_number
        self._run = b"%d" % run_number
        self._one = msgspec.json.Decoder(seen.record).decode
        self._all = msgspec.json.Decoder(cast(Any, list)[seen.record]).decode
        self._none = seen.record()

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each block, and the batch at the end of the piece."""
        gathered = self._projection.gather(piece, self._run_number)
        tables = [_Table(columns) for _, _, columns in self._shape.tables]
        place = 1
        for begin, end in piece.blocks or ((0, len(piece.data)),):
            block = _Block(piece.data[begin:end], piece)
            place += self._add(block, place, b"%d" % piece.offset, tables, gathered)
            yield None
        if place != piece.count + 1:
            raise InternalError(f"of {piece.count} records at byte {piece.offset} {place - 1} were decoded")
        yield Batch(
            piece=piece,
            places=range(1, place),
            tables=tuple(
                (Rows(format="csv", buffer=table.buffer, count=table.count), *careful)
                for table, careful in zip(tables, gathered.tables(), strict=True)
            ),
            rejected=tuple(gathered.rejected),
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
                    return self._all(b"[%b]" % block.data), set()
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

    def __init__(self, data: bytes, piece: Piece) -> None:
        self.data = data
        self.shape = piece.shape
        self._texts: Sequence[bytes | Fault] | None = None

    @property
    def is_utf8(self) -> bool:
        if self.data.isascii():
            return True
        try:
            self.data.decode()
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
                return list(map(bytes, _values(b"[%b]" % self.data)))
            except _UNDECODED:
                pass
        return list(records.texts(Piece(offset=0, count=0, first_record=1, data=self.data, shape=self.shape)))


class _Table:
    """The rows of one table that the fast lane vouches for."""

    def __init__(self, columns: Sequence[Seen]) -> None:
        self.buffer = BytesIO()
        self.count = 0
        self._columns = columns

    def rows(self, items: Items, run: bytes, offset: bytes, places: Sequence[bytes], suspects: set[int]) -> list[bytes]:
        """Return the lines of CSV, and add the records that hold a token which nothing vouches for to the suspects."""
        if not items.items:
            return []
        fields: list[Sequence[Token]] = []
        owners = items.owners
        for seen in self._columns:
            tokens = seen.take(items)
            if seen.vouch is not None:
                found: set[int] = set()
                tokens = seen.vouch(tokens, found)
                suspects |= found if owners is None else {owners[place] for place in found}
            fields.append(tokens)
        own = places if owners is None else [places[owner] for owner in owners]
        return list(map(_join, zip(*fields, repeat(run), repeat(offset), own)))

    def add(self, items: Items, lines: list[bytes], suspects: set[int]) -> None:
        """Keep the lines but those of the suspects."""
        if suspects:
            owners = range(len(lines)) if items.owners is None else items.owners
            lines = list(compress(lines, (owner not in suspects for owner in owners)))
        if lines:
            self.buffer.write(b"\n".join(lines))
            self.buffer.write(b"\n")
            self.count += len(lines)


Lane = FastLane | CarefulLane


def fast(dataset: Dataset) -> Shape | str:
    """Return the dataset as the fast lane sees it, or why it cannot."""
    try:
        return shape(dataset)
    except NoShape as reason:
        return str(reason)
