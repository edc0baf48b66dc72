"""The fast path: blocks of records are decoded into JSON tokens, and those accepted are sent as they stand.

A record that holds another token is suspect, and is converted value by value. `docs/explain/fast-path.md` follows one
record through each step, with its bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache
from io import BytesIO
from itertools import chain, compress, repeat
from typing import Any, Literal, cast

import msgspec

from etl.datasets import LINEAGE, Table
from etl.errors import InternalError
from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing import decoding
from etl.ingestion.framing.boundaries import are_lines, is_nested_deeper, is_utf8
from etl.ingestion.framing.spans import Spans
from etl.ingestion.transform.acceptance import group_of
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.rules import Group, Token
from etl.ingestion.transform.shapes import Seen, Shape
from etl.ingestion.transform.tokens import SEPARATOR
from etl.ingestion.values import Batch, Block, BlockRows, Piece, PieceShape, Proof, Rows, Span

Columns = frozenset[tuple[str, str]]

_MISSES = 4
_UNASKED_AFTER_MISSES = 64
"""Blocks that are not decoded for a proof where it was of no use: each would be decoded twice."""

_NUMBERS_KEPT = 1 << 15

_join = SEPARATOR.join

_UNDECODED = (msgspec.MsgspecError, ValueError, RecursionError)


class FastPath:
    """Decodes a block of records into tokens, which the server converts.

    `guarded` are the columns, by table and name, whose limits the tables check themselves; without any it is strict.
    `closely` are those that are looked at by themselves, for the server refused a value of theirs.
    """

    def __init__(
        self,
        shape: Shape,
        projection: Projection,
        run_number: int,
        guarded: Columns = frozenset(),
        closely: Columns = frozenset(),
    ) -> None:
        self._projection = projection
        self._run_number = run_number
        self._shape = shape
        self._guarded = guarded
        self._closely = closely
        self._decoders = _Decoders(shape.record)
        self._known = _Decoders(shape.known)
        self._none = shape.record()
        self._tables = [_Table(shape, table, columns, guarded, closely) for table, columns in shape.tables]
        self._name: Literal["fast", "strict"] = "fast" if guarded else "strict"
        self._misses = 0
        self._unasked = 0

    def looking_at(self, columns: Collection[tuple[str | None, str | None]]) -> "FastPath | None":
        """Return the path that looks at each of these columns by itself; None where this one does so already."""
        named = {(table.name, seen.column.name) for table, group in self._shape.tables for seen in group}
        new = named.intersection(columns) - self._closely
        if not new:
            return None
        return FastPath(self._shape, self._projection, self._run_number, self._guarded - new, self._closely | new)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each block whose rows are not made yet, and the batch at the end of the piece."""
        gathered = self._projection.gather(piece, self._run_number)
        if self._projection.warns_of_unknown:
            gathered.look_at(decoding.first(piece))
        buffers: list[list[BytesIO]] = [[] for _ in self._tables]
        counts = [0] * len(self._tables)
        spans: dict[int, Span] = {}
        place = 1
        blocks = piece.blocks or ((0, piece.length),)
        for (begin, end), proven in zip(blocks, piece.block_rows or repeat(None), strict=False):
            rows = proven
            if rows is None or rows.maker is not self:
                rows = self._rows(piece.between(begin, end), piece.shape, piece.offset, place)
                yield None
            place += rows.count
            for table, (lines, count) in enumerate(rows.tables):
                buffers[table].append(BytesIO(lines))
                counts[table] += count
            for suspect, within in rows.suspects:
                spans[suspect] = span = Span(begin + within.start, begin + within.end, within.fault)
                gathered.add(suspect, decoding.decode_one(decoding.text(piece, span)))
        if place != piece.count + 1:
            raise InternalError(f"of {piece.count} records at byte {piece.offset} {place - 1} were decoded")
        yield Batch(
            piece=piece,
            places=range(1, place),
            tables=tuple(
                (Rows(format="csv", buffers=tuple(held), count=count, columns=table.columns), *checked)
                for table, held, count, checked in zip(self._tables, buffers, counts, gathered.tables(), strict=True)
            ),
            rejected=tuple(gathered.rejected),
            path=self._name,
            maker=self,
            policy_effects=gathered.policy_effects,
            spans=spans,
        )

    def prove(self, block: Block) -> Proof | None:
        """Return the number of records in a block and their rows, or None where the cutter must check the block.

        Decoding a block proves that it is JSON. It does not prove how deep the members are nested that the dataset
        does not name, nor that each value is of the kind of its column: these are looked at.
        """
        if self._unasked:
            self._unasked -= 1
            return None
        text = _Block(block.data, block.shape)
        try:
            records = text.decoded(self._known)
        except _UNDECODED:
            records = []
        rows = self._block_rows(text, records, set(), block.offset, block.place) if records else None
        if rows is not None and _is_sound(block, rows):
            self._misses = 0
            return Proof(len(records), rows)
        self._misses += 1
        if self._misses >= _MISSES:
            self._misses, self._unasked = 0, _UNASKED_AFTER_MISSES
        return None

    def _rows(self, data: bytes, shape: PieceShape, offset: int, first: int) -> BlockRows:
        block = _Block(data, shape)
        found, suspects = self._decoded(block)
        return self._block_rows(block, found, suspects, offset, first)

    def _block_rows(
        self, block: "_Block", found: Sequence[Any], suspects: set[int], offset: int, first: int
    ) -> BlockRows:
        """Return the rows of a block whose first record has the place `first` in the piece at `offset`."""
        head = b"%d\x1f%d\x1f" % (self._run_number, offset)
        last = first + len(found)
        tails = [head + number for number in _numbers(last)[first - 1 : last - 1]]
        taken = []
        for table in self._tables:
            taken.append(table.rows(found, tails, suspects))  # noqa: PERF401 - this is where the stack is deepest: no frame more
        return BlockRows(
            maker=self,
            count=len(found),
            tables=[lines.but(suspects) for lines in taken],
            suspects=[(first + suspect, block.spans[suspect]) for suspect in sorted(suspects)],
        )

    def _decoded(self, block: "_Block") -> tuple[list[Any], set[int]]:
        """Return the records of a block and the places, from 0, of those that are not as the dataset names them."""
        if is_utf8(block.data):
            with suppress(*_UNDECODED):
                return block.decoded(self._decoders), set()
        found: list[Any] = []
        suspects: set[int] = set()
        for place, span in enumerate(block.spans):
            record = None if span.fault else self._decoded_one(block.data[span.start : span.end])
            found.append(self._none if record is None else record)
            if record is None:
                suspects.add(place)
        return found, suspects

    def _decoded_one(self, text: bytes) -> Any:
        try:
            text.decode()
            return self._decoders.one.decode(text)
        except _UNDECODED:
            return None


def _is_sound(block: Block, rows: BlockRows) -> bool:
    """Tell whether a decoded block is UTF-8 throughout and nested no deeper than MAX_NESTING.

    Each suspect is looked at; bytes that are neither in a row nor in a suspect are ASCII.
    """
    if not all(is_utf8(lines) for lines, _ in rows.tables):
        return False
    return not any(is_nested_deeper(block.data[span.start : span.end], MAX_NESTING) for _, span in rows.suspects)


class _Decoders:
    """What decodes records of a type: in an array, and one by one or on lines."""

    def __init__(self, record: type[msgspec.Struct]) -> None:
        self.array = msgspec.json.Decoder(cast(Any, list)[record])
        self.one = msgspec.json.Decoder(record)


class _Block:
    """A part of a piece that is decoded as one."""

    def __init__(self, data: bytes, shape: PieceShape) -> None:
        self.data = data
        self._shape = shape
        self._spans: Spans | None = None

    def decoded(self, decoders: _Decoders) -> list[Any]:
        """Return the records.

        Raises one of _UNDECODED where not all of them are of the type.
        """
        if self._shape == "array":
            return cast(list[Any], decoders.array.decode(b"[%b]" % self.data))
        if self._shape == "lines":
            found: list[Any] = decoders.one.decode_lines(self.data)
            if are_lines(self.data, len(found)):
                return found
            return list(map(decoders.one.decode, self.data.split(b"\n")))
        raise ValueError("records that follow one another are decoded one by one")

    @property
    def spans(self) -> Spans:
        """Where the records stand in it."""
        if self._spans is None:
            self._spans = Spans(self.data, self._shape)
        return self._spans


class _Table:
    """The rows of one table that the fast path accepts."""

    def __init__(self, shape: Shape, table: Table, columns: Sequence[Seen], guarded: Columns, closely: Columns) -> None:
        together: dict[Group, list[Seen]] = {}
        alone: list[list[Seen]] = []
        for seen in columns:
            named = (table.name, seen.column.name)
            group = None if named in closely else group_of(seen.column, is_guarded=named in guarded)
            if group is None:
                alone.append([seen])
            else:
                together.setdefault(group, []).append(seen)
        self._groups = [*together.items(), *((None, columns) for columns in alone)]
        self._taken = shape.taking(table, [columns for _, columns in self._groups])
        self.columns = (*(seen.column.name for _, columns in self._groups for seen in columns), *LINEAGE)

    def rows(self, records: Sequence[Any], tails: Sequence[bytes], suspects: set[int]) -> "_Lines":
        """Return the lines of CSV, and add the records that hold a token which nothing accepts to the suspects.

        `tails` are the last fields of each record's rows.
        """
        sizes = None if self._taken.sizes is None else self._taken.sizes(records)
        fields = self._taken.fields(records, () if sizes is None else _numbers(max(sizes)))
        if not fields:
            return _Lines([], sizes)
        found: set[int] = set()
        groups = []
        for (group, columns), rows in zip(self._groups, zip(*fields, strict=True), strict=True):
            groups.append(_accepted(group, columns, rows, found))
        if sizes is not None:
            tails = list(chain.from_iterable(map(repeat, tails, sizes)))
        lines = _Lines(list(map(_join, zip(*groups, tails, strict=True))), sizes)
        suspects.update(found if sizes is None else map(lines.owners().__getitem__, found))
        return lines


def _accepted(
    group: Group | None, columns: Sequence[Seen], rows: Sequence[Token], suspects: set[int]
) -> Sequence[Token]:
    """Return the fields of columns that are checked together, and add the rows with a token that does not pass."""
    if group and (accepted := group.accept(rows)) is not None:
        return accepted
    if group and group.odd_rows:
        for place in group.odd_rows(rows, len(columns)):
            found: set[int] = set()
            _accepted(None, columns, [rows[place]], found)
            suspects.update(place for _ in found)
        # The tokens of all other rows pass as they are.
        return rows
    if len(columns) == 1:
        return rows if columns[0].accept is None else columns[0].accept(rows, suspects)
    tokens = zip(*(bytes(row).split(SEPARATOR) for row in rows), strict=True)
    fields = [
        column if seen.accept is None else seen.accept(column, suspects)
        for seen, column in zip(columns, tokens, strict=True)
    ]
    return list(map(_join, zip(*fields, strict=True)))


class _Lines:
    """The lines of CSV that a block of records becomes; `sizes` are how many each of them does, None: one each."""

    def __init__(self, lines: list[bytes], sizes: list[int] | None) -> None:
        self.lines = lines
        self._sizes = sizes

    def owners(self) -> Sequence[int]:
        """Return the place in the block, from 0, of the record of each line."""
        if self._sizes is None:
            return range(len(self.lines))
        return list(chain.from_iterable(map(repeat, range(len(self._sizes)), self._sizes)))

    def but(self, suspects: set[int]) -> tuple[bytes, int]:
        """Return the lines but those of the suspects, each with its end, and how many."""
        lines = self.lines
        if suspects:
            lines = list(compress(lines, (owner not in suspects for owner in self.owners())))
        return b"\n".join([*lines, b""]), len(lines)


def _numbers(count: int) -> list[bytes]:
    """Return the numbers from 1 to `count`, or further, as they stand in a row."""
    return _made_numbers(count) if count > _NUMBERS_KEPT else _kept_numbers()


@cache
def _kept_numbers() -> list[bytes]:
    return _made_numbers(_NUMBERS_KEPT)


def _made_numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(1, count + 1)]
