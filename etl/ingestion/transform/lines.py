"""Decoded records -> the lines of CSV of one table. Pure: the fast path.

The tokens of a group of columns are checked together; a record with a token that is not accepted is suspect.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, compress, repeat
from typing import Any

from etl.datasets import Table
from etl.ingestion.transform import misfits
from etl.ingestion.transform.acceptance import group_of
from etl.ingestion.transform.conditions import TokenCondition, decisions
from etl.ingestion.transform.extraction import Fields, RowExtractor
from etl.ingestion.transform.rules import Group, Token
from etl.ingestion.transform.shapes import Shape, TokenColumn
from etl.ingestion.transform.tokens import SEPARATOR

Columns = frozenset[tuple[str, str]]
"""Columns by table and name."""

_CACHED_NUMBERS = 1 << 15

_MANY_ROWS = 16
_WIDE_BYTES = 1 << 16
"""So many rows, and so many bytes, may repeat parts of their record: the rows of the fast path are all in memory."""

_BUCKET_BYTES = {"month": len(b'"2026-07'), "day": len(b'"2026-07-01')}
"""So many bytes of a time name its month or its day."""

_join = SEPARATOR.join


class TableLines:
    """Makes the rows of one table from decoded records."""

    def __init__(
        self, shape: Shape, table: Table, columns: Sequence[TokenColumn], guarded: Columns, suspected: Columns
    ) -> None:
        grouped: dict[Group, list[TokenColumn]] = {}
        alone: list[list[TokenColumn]] = []
        moves = _moves(columns)
        moving = {name for move in moves for name in move}
        # Child rows stay in their order: to sort so many small rows costs as much as the server saves by it.
        divided_by = None if table.each else table.partition_by
        for column in sorted(columns, key=lambda column: column.name != divided_by):
            key = (table.name, column.name)
            is_alone = key in suspected or column.name in moving
            group = None if is_alone else group_of(column.column, is_guarded=key in guarded)
            if group is None:
                alone.append([column])
            else:
                grouped.setdefault(group, []).append(column)
        self._groups = [*grouped.items(), *((None, columns) for columns in alone)]
        # The time by which the table is divided begins each line.
        self._groups.sort(key=lambda group: group[1][0].name != divided_by)
        self._bucket_bytes = _BUCKET_BYTES[table.partition_every] if divided_by else 0
        places = {own[0].name: place for place, (_, own) in enumerate(self._groups) if own[0].name in moving}
        self._moves = [(places[source], places[target]) for source, target in moves]
        self._empty = shape.record()
        self._name = table.name
        self._conditions = [TokenCondition(condition) for condition in table.where]
        self.is_of_elements = bool(table.each)
        self._extractor: RowExtractor = shape.extractor(table, [columns for _, columns in self._groups])
        self.is_of_texts = self._extractor.of_texts
        self.is_of_keys = self._extractor.of_keys
        self.columns = (*(column.name for _, columns in self._groups for column in columns), *table.lineage)
        self.takes_digests = table.has_digest

    def decisions(self, records: Sequence[Any]) -> list[bool | None]:
        """Return for each row whether the conditions of the table hold; None: only the checked path can tell."""
        if self._extractor.conditions is None:
            return [True] * len(records)
        return decisions(self._conditions, self._extractor.conditions(records))

    def rows(
        self,
        records: Sequence[Any],
        tails: Sequence[bytes],
        suspects: set[int],
        places: Sequence[int] | None,
        texts: Sequence[Token],
        keys: Sequence[Token],
    ) -> "Lines":
        """Return the lines of CSV, and add the records with a token that does not pass to the suspects.

        `tails` are the last fields of each record's rows; `texts` are the records as they are written, and `keys` the
        tokens of their keys, if a column has them. `places` are those of the records that become rows; None: all do.
        """
        sizes = None if self._extractor.sizes is None else self._extractor.sizes(records)
        if sizes is not None and self._extractor.repeated and max(sizes) > _MANY_ROWS:
            wide = _wide(sizes, self._extractor.repeated(records))
            suspects.update(wide)
            records = [self._empty if place in wide else record for place, record in enumerate(records)]
            sizes = [0 if place in wide else size for place, size in enumerate(sizes)]
        numbers = () if sizes is None else numbers_to(max(sizes))
        if places is not None:
            records, tails = list(map(records.__getitem__, places)), list(map(tails.__getitem__, places))
            texts = list(map(texts.__getitem__, places)) if texts else ()
            keys = list(map(keys.__getitem__, places)) if keys else ()
        fields = self._extractor.fields(records, numbers, texts, keys)
        if sizes is not None and self.is_of_elements and self._conditions:
            fields, sizes = self._taken(records, fields, sizes, suspects)
        if not fields:
            return Lines([], sizes, places, bucket_bytes=self._bucket_bytes)
        odd_rows: set[int] = set()
        changed: list[tuple[str, int]] = []
        groups = self._accepted_groups(fields, odd_rows, changed)
        if sizes is not None:
            tails = list(chain.from_iterable(map(repeat, tails, sizes)))
        changed = [(f"{self._name}.{column}", row) for column, row in changed]
        made = list(map(_join, zip(*groups, tails, strict=True)))
        lines = Lines(made, sizes, places, changed, bucket_bytes=self._bucket_bytes)
        suspects.update(map(lines.owners().__getitem__, odd_rows) if odd_rows else ())
        return lines

    def _accepted_groups(
        self, fields: list[Fields], odd_rows: set[int], changed: list[tuple[str, int]]
    ) -> list[Sequence[Token]]:
        """Return the accepted fields of each group of columns; the others are noted as `_accepted` does."""
        rows: list[Sequence[Token]] = list(zip(*fields, strict=True))
        for source, target in self._moves:
            rows[source], rows[target] = misfits.moved(rows[source], rows[target])
        return [
            _accepted(group, columns, own, odd_rows, changed)
            for (group, columns), own in zip(self._groups, rows, strict=True)
        ]

    def _taken(
        self, records: Sequence[Any], fields: list[Fields], sizes: Sequence[int], suspects: set[int]
    ) -> tuple[list[Fields], list[int]]:
        """Return the fields of the elements that the conditions take, and the number of these for each record."""
        holds = self.decisions(records)
        counts = [0] * len(sizes)
        for place, held in zip(chain.from_iterable(map(repeat, range(len(sizes)), sizes)), holds, strict=True):
            if held:
                counts[place] += 1
            elif held is None:
                suspects.add(place)
        return list(compress(fields, holds)), counts


def _moves(columns: Sequence[TokenColumn]) -> list[tuple[str, str]]:
    """Return the names of the columns whose misfits can be moved, each with the column that takes them."""
    by_name = {column.name: column.column for column in columns}
    pairs = [(column.column, by_name[column.column.misfits_to]) for column in columns if column.column.misfits_to]
    return [(source.name, target.name) for source, target in pairs if misfits.is_movable(source, target)]


def _wide(sizes: Sequence[int], repeated: Sequence[int]) -> set[int]:
    """Return the places of the records whose rows repeat so much of them that the checked path must make them."""
    return {
        place
        for place, (size, length) in enumerate(zip(sizes, repeated, strict=True))
        if size * length > max(_WIDE_BYTES, _MANY_ROWS * (size + length))
    }


def _accepted(
    group: Group | None,
    columns: Sequence[TokenColumn],
    rows: Sequence[Token],
    odd_rows: set[int],
    changed: list[tuple[str, int]],
) -> Sequence[Token]:
    """Return the fields of columns that are checked together, and add the rows with a token that does not pass.

    `changed` gets the columns and the rows of texts that are not stored as they are written.
    """
    if group and (accepted := group.accept(rows, len(columns))) is not None:
        fields_of_rows, odd = accepted
        return _with_odd(columns, rows, fields_of_rows, odd, odd_rows, changed) if odd else fields_of_rows
    tokens = [rows] if len(columns) == 1 else zip(*(bytes(row).split(SEPARATOR) for row in rows), strict=True)
    places = range(len(rows))
    fields = [_checked(column, own, places, odd_rows, changed) for column, own in zip(columns, tokens, strict=True)]
    return fields[0] if len(columns) == 1 else list(map(_join, zip(*fields, strict=True)))


def _with_odd(
    columns: Sequence[TokenColumn],
    rows: Sequence[Token],
    fields_of_rows: Sequence[Token],
    odd: Mapping[int, Collection[int]],
    odd_rows: set[int],
    changed: list[tuple[str, int]],
) -> Sequence[Token]:
    """Return the fields of rows with those of their odd tokens, which are checked by columns."""
    fields: dict[int, list[Token]] = {}
    rows_of_columns: dict[int, list[int]] = {}
    for row, numbers in odd.items():
        own: list[Token] = [*bytes(fields_of_rows[row]).split(SEPARATOR)]
        if len(own) != len(columns):  # An escape means the separator: the checked path makes this row.
            odd_rows.add(row)
            continue
        fields[row] = own
        for number in numbers:
            rows_of_columns.setdefault(number, []).append(row)
    tokens_of_rows = {row: bytes(rows[row]).split(SEPARATOR) for row in fields}
    for number, places in rows_of_columns.items():
        tokens = [tokens_of_rows[row][number] for row in places]
        for row, field in zip(places, _checked(columns[number], tokens, places, odd_rows, changed), strict=True):
            fields[row][number] = field
    found = list(fields_of_rows)
    for row, own in fields.items():
        found[row] = _join(own)
    return found


def _checked(
    column: TokenColumn,
    tokens: Sequence[Token],
    places: Sequence[int],
    odd_rows: set[int],
    changed: list[tuple[str, int]],
) -> Sequence[Token]:
    """Return the fields of tokens of one column, whose rows have these places; the others are noted as above."""
    if column.changed is not None:
        changed.extend((column.name, places[token]) for token in column.changed(tokens))
    if column.accept is None:
        return tokens
    odd: set[int] = set()
    fields = column.accept(tokens, odd)
    odd_rows.update(map(places.__getitem__, odd))
    return fields


class Lines:
    """The lines of CSV of a block; `sizes` are the numbers of lines of its records, None: each record has one line.

    `places` are those of the records that have lines, None: all have. `changed` are the columns and the lines of texts
    that are not stored as they are written. The first `bucket_bytes` of a line say in which partition it is, 0: the
    lines stay in their order.
    """

    def __init__(
        self,
        lines: list[bytes],
        sizes: Sequence[int] | None,
        places: Sequence[int] | None,
        changed: Sequence[tuple[str, int]] = (),
        *,
        bucket_bytes: int = 0,
    ) -> None:
        self.lines = lines
        self._changed = changed
        self._sizes = sizes
        self._places = places
        self._bucket_bytes = bucket_bytes

    def owners(self) -> Sequence[int]:
        """Return the place in the block, from 0, of the record of each line."""
        if self._places is not None:
            return self._places
        if self._sizes is None:
            return range(len(self.lines))
        return list(chain.from_iterable(map(repeat, range(len(self._sizes)), self._sizes)))

    def changed_without(self, suspects: set[int]) -> Iterator[str]:
        """Yield the column of each changed text in a line that is not one of the suspects."""
        if self._changed:
            owners = self.owners()
            yield from (column for column, line in self._changed if owners[line] not in suspects)

    def without(self, suspects: set[int]) -> tuple[Mapping[bytes, bytes], int]:
        """Return the lines without those of the suspects, each with its end, and their number.

        Lines that begin alike, and so have their partition together, are joined under these first bytes. Where lines
        stay in their order, all are joined under no bytes.
        """
        lines = self.lines
        if suspects:
            owners = self.owners()
            keeps: Iterable[bool] = (owner not in suspects for owner in owners)
            if isinstance(owners, range):
                # Mostly few of many.
                kept = [True] * len(owners)
                for suspect in suspects:
                    kept[suspect] = False
                keeps = kept
            lines = list(compress(lines, keeps))
        if not self._bucket_bytes:
            return {b"": _joined(lines)}, len(lines)
        buckets: dict[bytes, list[bytes]] = defaultdict(list)
        for line in lines:
            buckets[line[: self._bucket_bytes]].append(line)
        return {bucket: _joined(own) for bucket, own in buckets.items()}, len(lines)


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def numbers_to(count: int) -> list[bytes]:
    """Return the numbers from 1 to `count` or more, as a row has them."""
    return _new_numbers(count) if count > _CACHED_NUMBERS else _cached_numbers()


@cache
def _cached_numbers() -> list[bytes]:
    return _new_numbers(_CACHED_NUMBERS)


def _new_numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(1, count + 1)]
