"""The fast path: blocks of records are decoded into JSON tokens, and accepted tokens are sent unchanged.

A record with any other token is suspect, and is converted value by value. `docs/explain/fast-path.md` follows one
record through each step, with its bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import field, replace
from functools import cached_property
from io import BytesIO
from itertools import chain, compress, repeat
from operator import not_
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from etl.errors import InternalError
from etl.ingestion.constants import LAYER_LEVELS, MAX_NESTING, WHOLE_RECORD_BYTES
from etl.ingestion.framing import decoding
from etl.ingestion.framing.blocks import UNDECODABLE, Decoders, RecordBlock
from etl.ingestion.framing.boundaries import is_utf8
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.transform.collecting import are_sound
from etl.ingestion.transform.extras import Extras, Measured
from etl.ingestion.transform.lines import Columns, TableLines, numbers_to
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.shapes import Shape
from etl.ingestion.transform.tokens import NULL
from etl.ingestion.transform.unknown import UnknownCounts
from etl.ingestion.values import Batch, Block, BlockRows, Piece, PolicyEffects, Proof, Rows, Span, Unmade
from etl.quick_dataclasses import dataclass

if TYPE_CHECKING:
    from etl.ingestion.transform.keys_first import KeyLines

_MAX_MISSES = 4
_PAUSE_AFTER_MISSES = 64
"""So many blocks get no proof after several proofs failed: a block without a proof is decoded twice."""

_FIRST_EXAMINED = 16
"""So many records are examined before the others of their block."""


class FastPath:
    """Decodes a block of records into tokens, which the server converts.

    `guarded` are the columns, by table and name, whose limits the tables check themselves; without any the path is
    strict. `suspected` are the columns that are checked alone, because the server refused a value of theirs.
    """

    def __init__(
        self,
        shape: Shape,
        projection: Projection,
        run_number: int,
        guarded: Columns = frozenset(),
        suspected: Columns = frozenset(),
        extras: Extras | None = None,
    ) -> None:
        self._projection = projection
        self._run_number = run_number
        self._shape = shape
        self._guarded = guarded
        self._suspected = suspected
        self._decoders = Decoders(shape.record)
        self._known = Decoders(shape.known)
        self._extras = extras
        self._empty = shape.record()
        self._digests = projection.digests
        self._has_arrays = any(table.each for table, _ in shape.tables)
        kinds = [table for table, _ in shape.tables if table.where and not table.each]
        self._has_conditions = any(not table.deletes for table in kinds)
        self._deletions = next((number for number, (table, _) in enumerate(shape.tables) if table.deletes), None)
        self._tables = [TableLines(shape, table, columns, guarded, suspected) for table, columns in shape.tables]
        self._is_of_keys = any(table.is_of_keys for table in self._tables)
        self._is_of_texts = any(table.is_of_texts for table in self._tables)
        self._name: Literal["fast", "strict"] = "fast" if guarded else "strict"
        self._misses = 0
        self._pause = 0

    def suspecting(self, columns: Collection[tuple[str | None, str | None]]) -> "FastPath | None":
        """Return the path that checks each of these columns alone; None if this path does so already."""
        own = {(table.name, column.name) for table, group in self._shape.tables for column in group}
        new = own.intersection(columns) - self._suspected
        if not new:
            return None
        guarded, suspected = self._guarded - new, self._suspected | new
        return FastPath(self._shape, self._projection, self._run_number, guarded, suspected, self._extras)

    def of_run(self, run_number: int) -> "FastPath":
        """Return this path for the records of another run, without compiling it again."""
        path = copy(self)
        path._run_number = run_number  # noqa: SLF001 - a copy of this path
        return path

    def can_compare(self, piece: Piece) -> bool:
        """Return whether the keys of the records of a piece can be made before their rows."""
        return self._digests is not None and not piece.is_heavy and piece.shape in {"array", "lines"}

    def keys_first(self, piece: Piece, *, is_examining: bool) -> Iterator[Batch | None]:
        """Yield None after each block, and a batch whose rows are made when it is known which records changed.

        If only the checked path can read the key of a record, all rows are made: it may be the key of another one, too.
        `is_examining`: unknown members of unchanged records are counted, too.
        """
        unknown = UnknownCounts()
        buffers: list[BytesIO] = []
        counts: list[int] = []
        count = 0
        for begin, end in piece.blocks or ((0, piece.length),):
            block = RecordBlock(piece.between(begin, end), piece.shape)
            keys = self._key_lines.of(block, 1 + sum(counts))
            if keys is None:
                yield from self.batching(piece)
                return
            lines, count_of_lines, count_of_records = keys
            if is_examining and (found := self._decoded(block).counts):
                unknown.add(found.kept(), found.others)
            buffers.append(BytesIO(lines))
            counts.append(count_of_records)
            count += count_of_lines
            yield None
        _require_all(piece, 1 + sum(counts))
        rows = Rows(format="csv", buffers=tuple(buffers), count=count, columns=self._key_lines.columns)
        counted = PolicyEffects(unknown=unknown.kept(), unknown_others=unknown.others)
        yield self._unmade(piece, rows, counts, counted, is_counted=is_examining)

    def _unmade(
        self, piece: Piece, keys: Rows, counts: Sequence[int], counted: PolicyEffects, *, is_counted: bool
    ) -> Batch:
        """Return a batch whose rows are made of its changed records; `counts` are the records of each block."""

        def make(unchanged: Collection[int]) -> Batch:
            batches = self._changed(piece, counts, frozenset(unchanged), counted if is_counted else None)
            return next(batch for batch in batches if batch is not None)

        return Batch(
            piece=piece,
            places=range(1, 1 + sum(counts)),
            tables=(),
            rejected=(),
            path=self._name,
            maker=self,
            policy_effects=counted,
            unmade=Unmade(keys=keys, make=make),
        )

    @cached_property
    def _key_lines(self) -> "KeyLines":
        from etl.ingestion.transform.keys_first import KeyLines  # noqa: PLC0415 - the first load of a table has no need

        return KeyLines(self._projection, self._guarded, self._suspected)

    def _changed(
        self, piece: Piece, counts: Sequence[int], unchanged: frozenset[int], counted: PolicyEffects | None
    ) -> Iterator[Batch | None]:
        """Yield the batch of the records that are not unchanged; `counts` are those of the records of each block.

        `counted` are the unknown members of all records; None: those of the changed records are not counted yet.
        """
        blocks, first = [], 1
        for (begin, end), count in zip(piece.blocks or ((0, piece.length),), counts, strict=True):
            block = RecordBlock(piece.between(begin, end), piece.shape)
            rows = self._changed_rows(block, count, piece.offset, first, unchanged)
            blocks.append(rows if counted is None else structs.replace(rows, unknown={}, unknown_others=0))
            first += rows.count
        made = replace(piece, block_rows=tuple(blocks))
        for batch in self.batching(made):
            if batch is None or counted is None:
                yield batch if batch is None else replace(batch, piece=piece)
            else:
                yield replace(batch, piece=piece, policy_effects=batch.policy_effects.with_unknown_of(counted))

    def _changed_rows(
        self, block: RecordBlock, count: int, offset: int, first: int, unchanged: frozenset[int]
    ) -> BlockRows:
        changed = [place for place in range(first, first + count) if place not in unchanged]
        if len(changed) == count:
            return self._rows(block, offset, first)
        if not changed:
            return BlockRows(maker=self, count=count, tables=[({}, 0) for _ in self._tables], suspects=())
        part = block.part((place - first for place in changed), count)
        rows = self._block_rows(part, self._decoded(part), offset, changed)
        suspects = [(place, block.spans[place - first]) for place, _ in rows.suspects]
        return structs.replace(rows, count=count, suspects=suspects)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each block that had no rows yet, and the batch at the end of the piece."""
        builder = self._projection.builder(piece, self._run_number)
        buckets: list[dict[bytes, list[bytes]]] = [defaultdict(list) for _ in self._tables]
        counts = [0] * len(self._tables)
        spans: dict[int, Span] = {}
        place = 1
        blocks = piece.blocks or ((0, piece.length),)
        for (begin, end), proven in zip(blocks, piece.block_rows or repeat(None), strict=False):
            rows = proven
            if rows is None or rows.maker is not self:
                rows = self._rows(
                    RecordBlock(piece.between(begin, end), piece.shape, piece.is_heavy), piece.offset, place
                )
                yield None
            place += rows.count
            builder.note_effects(rows)
            builder.digests = rows.digests
            for table, (parts, count) in enumerate(rows.tables):
                for bucket, lines in parts.items():
                    buckets[table][bucket].append(lines)
                counts[table] += count
            for suspect, within in rows.suspects:
                spans[suspect] = span = Span(begin + within.start, begin + within.end, within.fault)
                record = decoding.decode_one(decoding.text(piece, span), is_keyed=piece.is_keyed)
                builder.add(suspect, record, is_counted=suspect not in rows.undecoded)
        _require_all(piece, place)
        yield Batch(
            piece=piece,
            places=range(1, place),
            tables=tuple(
                (Rows(format="csv", buffers=_in_buckets(lines), count=count, columns=table.columns), *checked)
                for table, lines, count, checked in zip(self._tables, buckets, counts, builder.tables(), strict=True)
            ),
            rejected=tuple(builder.rejected),
            path=self._name,
            maker=self,
            policy_effects=builder.policy_effects,
            spans=spans,
        )

    def prove(self, block: Block) -> Proof | None:
        """Return the number of records in a block and their rows, or None where the cutter must check the block.

        Decoding a block proves that it is JSON. It does not prove how deep the unnamed members are nested, or that each
        value is of the kind of its column: both are checked here, and of members that no row holds that they are UTF-8.
        """
        if self._pause:
            self._pause -= 1
            return None
        text = RecordBlock(block.data, block.shape)
        records = self._proven(text)
        extras = self._measured(records)
        decoded = _Decoded(records, counts=extras and extras.counts)
        try:
            places = range(block.place, block.place + len(records))
            rows = self._block_rows(text, decoded, block.offset, places) if records else None
        except UnicodeDecodeError:  # A value that was looked at is no UTF-8.
            rows = None
        if rows is not None and _is_sound(block, rows) and self._are_sound(block.data, records, extras):
            self._misses = 0
            return Proof(len(records), rows)
        self._misses += 1
        if self._misses >= _MAX_MISSES:
            self._misses, self._pause = 0, _PAUSE_AFTER_MISSES
        return None

    def _proven(self, block: RecordBlock) -> list[Any]:
        """Return the records of a block without an unknown member that was not met yet; none where it has others."""
        try:
            return block.decoded(self._refusing)
        except UNDECODABLE as error:
            if not self._projection.warns_of_unknown or "unknown field" not in str(error):
                return []
        extras = self._met()
        with suppress(*UNDECODABLE):
            records = block.decoded(self._any) if extras.can_learn else []
            # The members of most blocks are those of their first records.
            for some in (records[:_FIRST_EXAMINED], records[_FIRST_EXAMINED:]):
                # Counted when its rows are made: perhaps there is no proof even so.
                if extras.examine(some):
                    with suppress(*UNDECODABLE):
                        return block.decoded(extras.decoders)
        return []

    @property
    def _refusing(self) -> Decoders:
        """The decoders that refuse each unknown member that was not met yet."""
        return self._extras.decoders if self._extras else self._known

    @cached_property
    def _any(self) -> Decoders:
        return Decoders(Any)

    def _met(self) -> Extras:
        """Return the unknown members that were met."""
        self._extras = self._extras or Extras(self._shape, self._projection.members, self._known)
        return self._extras

    def _measured(self, records: Sequence[Any]) -> Measured | None:
        """Return what is known of the unknown members in records that were decoded by `_refusing`."""
        return self._extras.measured(records) if self._extras else None

    def _counted(self, records: Sequence[Any]) -> UnknownCounts | None:
        measured = self._measured(records)
        return measured and measured.counts

    def _are_sound(self, data: bytes, records: Sequence[Any], extras: Measured | None) -> bool:
        left_out = self._shape.left_out
        if left_out and not are_sound(data, left_out, records):
            return False
        return extras is None or extras.are_sound(data, records)

    def _rows(self, block: RecordBlock, offset: int, first: int) -> BlockRows:
        decoded = self._decoded(block)
        return self._block_rows(block, decoded, offset, range(first, first + len(decoded.records)))

    def _block_rows(self, block: RecordBlock, decoded: "_Decoded", offset: int, places: Sequence[int]) -> BlockRows:
        """Return the rows of a block whose records have these places in the piece at `offset`."""
        head = b"%d\x1f%d\x1f" % (self._run_number, offset)
        records, suspects = decoded.records, set(decoded.undecoded)
        numbers = numbers_to(places[-1] if places else 0)
        tails = [head + numbers[place - 1] for place in places]
        digests = self._digests.of(block.wholes(len(records))) if self._digests else ()
        tails_with_digests = [b"%b\x1f%d" % own for own in zip(tails, digests, strict=True)] if digests else tails
        # All tables add their suspects before any of them leaves a suspect out.
        lines_of_tables = []
        texts: Sequence[Token] = block.spans.texts if self._is_of_texts else ()
        keys: Sequence[Token] = block.keys(len(records)) if self._is_of_keys else ()
        if self._deletions is not None and records:
            records = self._without_deletions(records, self._deletions, suspects)
        takes = self._takes(records, suspects)
        for number, table in enumerate(self._tables):
            own_tails = tails_with_digests if table.takes_digests else tails
            lines_of_tables.append(table.rows(records, own_tails, suspects, takes.get(number), texts, keys))
        return BlockRows(
            maker=self,
            count=len(records),
            tables=[lines.without(suspects) for lines in lines_of_tables],
            suspects=[
                (places[suspect], block.span_of(suspect, self._own_token(decoded.records[suspect])))
                for suspect in sorted(suspects)
            ],
            undecoded=frozenset(places[suspect] for suspect in decoded.undecoded),
            digests={places[suspect]: digests[suspect] for suspect in suspects} if digests else {},
            coerced=Counter(chain.from_iterable(lines.changed_without(suspects) for lines in lines_of_tables)),
            unknown=decoded.counts.kept() if decoded.counts else {},
            unknown_others=decoded.counts.others if decoded.counts else 0,
        )

    def _own_token(self, record: Any) -> Token | None:
        """Return the token of a member of a decoded record itself, or None if the dataset names none that it has."""
        tokens = map(getattr, repeat(record), self._own_members)
        return next((token for token in tokens if token is not NULL), None)

    @cached_property
    def _own_members(self) -> list[str]:
        root = self._shape.root
        return [root.attribute(name) for name, member in root.members.items() if member.is_leaf]

    def _without_deletions(self, records: Sequence[Any], number: int, suspects: set[int]) -> list[Any]:
        """Return an empty record in the place of each one that deletes: the checked path takes it, as a suspect."""
        decisions = self._tables[number].decisions(records)
        deleting = [place for place, holds in enumerate(decisions) if holds is not False]
        suspects.update(deleting)
        kept = list(records)
        for place in deleting:
            kept[place] = self._empty
        return kept

    def _takes(self, records: Sequence[Any], suspects: set[int]) -> dict[int, Sequence[int]]:
        """Return the places of the records that each table of records takes, by its number; empty: it takes all.

        The first table whose conditions hold takes a record; one that no table takes becomes a suspect.
        """
        takes: dict[int, Sequence[int]] = {} if self._deletions is None else {self._deletions: ()}
        if not self._has_conditions:
            return takes
        places: Sequence[int] = range(len(records))
        for number, table in enumerate(self._tables):
            if not table.is_of_elements:
                decisions = table.decisions(list(map(records.__getitem__, places)))
                if decisions.count(None):
                    suspects.update(place for place, holds in zip(places, decisions, strict=True) if holds is None)
                takes[number] = list(compress(places, decisions))
                places = list(compress(places, map(not_, decisions)))
        suspects.update(places)
        return takes

    def _decoded(self, block: RecordBlock) -> "_Decoded":
        """Return the records of a block; its unknown members are counted if the definition warns of them."""
        warns = self._projection.warns_of_unknown
        if not block.is_heavy and is_utf8(block.data):
            if warns:
                with suppress(*UNDECODABLE):
                    records = block.decoded(self._refusing)
                    return _Decoded(records, counts=self._counted(records))
            with suppress(*UNDECODABLE):
                decoded = _Decoded(block.decoded(self._decoders))
                if warns:
                    decoded.counts = UnknownCounts()
                    self._met().examine(self._examined(block), decoded.counts)
                return decoded
        return self._decoded_one_by_one(block)

    def _examined(self, block: RecordBlock) -> Iterable[Any]:
        """Return the records of a block as an examination of their members needs them."""
        try:
            return block.decoded(self._any)
        except UNDECODABLE:  # Some numbers are too large for this decoder.
            texts = (block.record_text(place, span) for place, span in enumerate(block.spans))
            return (decoding.decode_one(text) for text in texts if text is not None)

    def _decoded_one_by_one(self, block: RecordBlock) -> "_Decoded":
        """Return the records of a block, and the places, from 0, of those that do not decode as the dataset says."""
        decoded = _Decoded([])
        known: list[Any] = []
        others: list[bytes] = []
        for place, span in enumerate(block.spans):
            text = block.record_text(place, span)
            record = None
            if not span.fault and text is not None and self._is_light(text):
                record = _decoded_one(self._refusing, text) if self._projection.warns_of_unknown else None
                if record is not None:
                    known.append(record)
                elif (record := _decoded_one(self._decoders, text)) is not None:
                    others.append(text)
            decoded.records.append(self._empty if record is None else record)
            if record is None:
                decoded.undecoded.add(place)
        if self._projection.warns_of_unknown:
            decoded.counts = self._counted(known) or UnknownCounts()
            self._met().examine(map(decoding.decode_one, others), decoded.counts)
        return decoded

    def _is_light(self, text: bytes) -> bool:
        """Return whether a record may be decoded as a whole: it is UTF-8, and not too heavy."""
        return is_utf8(text) and not self._is_too_heavy(text)

    def _is_too_heavy(self, text: bytes) -> bool:
        """Return whether a record is left to the checked path, which makes the rows of a large array as it sends them.

        Members that no row needs take no memory here, however large they are.
        """
        return (self._has_arrays and len(text) > WHOLE_RECORD_BYTES) or is_nested_deeper(text, MAX_NESTING)


def _in_buckets(buckets: Mapping[bytes, Sequence[bytes]]) -> tuple[BytesIO, ...]:
    """Return the lines of a table, one bucket after the other, in few buffers; those of one bucket are not copied."""
    if len(buckets) == 1:
        [lines] = buckets.values()
        return tuple(map(BytesIO, lines))
    return tuple(BytesIO(b"".join(lines)) for _, lines in sorted(buckets.items()))


def _require_all(piece: Piece, place: int) -> None:
    """Raise InternalError when not all records of a piece were decoded before a place."""
    if place != piece.count + 1:
        raise InternalError(f"of {piece.count} records at byte {piece.offset} {place - 1} were decoded")


def _is_sound(block: Block, rows: BlockRows) -> bool:
    """Return whether a decoded block is UTF-8 throughout and nested no deeper than LAYER_LEVELS.

    Each suspect is checked; bytes that are neither in a row nor in a suspect are ASCII.
    """
    if not (block.data.isascii() or all(is_utf8(lines) for parts, _ in rows.tables for lines in parts.values())):
        return False
    return not any(is_nested_deeper(block.data[span.start : span.end], LAYER_LEVELS) for _, span in rows.suspects)


@dataclass()
class _Decoded:
    """The decoded records of a block, and the places, from 0, of those that do not decode as the dataset says.

    `counts` are those of the unknown members in the records that decode; None: there are none.
    """

    records: list[Any]
    undecoded: set[int] = field(default_factory=set)
    counts: UnknownCounts | None = None


def _decoded_one(decoders: Decoders, text: bytes) -> Any:
    try:
        return decoders.one.decode(text)
    except UNDECODABLE:
        return None
