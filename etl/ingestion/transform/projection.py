"""Record -> COPY text and data checks, compiled once per dataset. Pure: the checked path, value by value.

`docs/reference/dataset-definitions.md` says which values fit which type; the SQLSTATE of a misfit is the one that
PostgreSQL would give.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property, partial
from typing import Any, NamedTuple

from etl.datasets import SOURCE, Dataset, Table, paths
from etl.errors import DefinitionError
from etl.ingestion.constants import NULL_TEXT, UNKNOWN_NAME_LENGTH
from etl.ingestion.fingerprints import RecordDigests
from etl.ingestion.transform.buffering import RowBuffer
from etl.ingestion.transform.conversions import as_text
from etl.ingestion.transform.members import Getter, getter, without_nul
from etl.ingestion.transform.table_rows import CompiledTable, RecordRefusal
from etl.ingestion.transform.types import converter
from etl.ingestion.transform.unknown import Known, UnknownCounts, are_known, known, note_unknown, unknown
from etl.ingestion.values import Batch, BlockRows, Fault, Misfit, Piece, PolicyEffects, Rejected, Rows

_NUL_SQLSTATES = frozenset({"22021", "22P05"})


class Projection:
    """A dataset, compiled: converts records to the COPY text of its tables.

    Raises DefinitionError if a constant or a default does not fit its column.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        _require_fitting(dataset)
        self._coerced: list[str] = []
        of_records = [number for number, table in enumerate(dataset.tables) if not table.each]
        # A record that deletes is no row of another table, whichever conditions it meets.
        self._record_tables = sorted(of_records, key=lambda number: not dataset.tables[number].deletes)

    # Compiled for the first record that the checked path takes: many loads have none.
    @cached_property
    def _tables(self) -> list[CompiledTable]:
        return [CompiledTable.of(table, self._coerced) for table in self.dataset.tables]

    @cached_property
    def _has_conditions(self) -> bool:
        return any(self._tables[number].takes for number in self._record_tables)

    @cached_property
    def _keys(self) -> dict[int, list[Getter]]:
        return {number: _keys(self.dataset, self.dataset.tables[number]) for number in self._record_tables}

    @cached_property
    def members(self) -> Known | None:
        """The members of a record that the definition knows; None: all."""
        return known(self.dataset)

    @cached_property
    def digests(self) -> RecordDigests | None:
        """The maker of the digests of the records; None: no row has one."""
        if not self.dataset.has_digests:
            return None
        return RecordDigests(self.dataset.digest_definition)

    @property
    def warns_of_unknown(self) -> bool:
        """Whether the members that the definition does not know are counted."""
        return self.dataset.on_unknown == "warn"

    def batch(
        self,
        piece: Piece,
        records: Iterable[dict[str, Any] | Fault],
        run_number: int,
        places: Sequence[int],
    ) -> Batch:
        """Return the rows of a piece and the records that can never load.

        `places` has the place of each record. The lineage of a row is `run_number`, the offset of the piece, and the
        place of the record.
        """
        builder = self.builder(piece, run_number)
        for place, record in zip(places, records, strict=True):
            builder.add(place, record, is_counted=False)
        return builder.batch(piece, places)

    def builder(self, piece: Piece, run_number: int) -> "BatchBuilder":
        """Return a builder for the batch of a piece."""
        return BatchBuilder(self, f"{run_number}\t{piece.offset}")

    def rows_of(self, record: dict[str, Any], lineage: "RecordLineage") -> list[Iterable[str]]:
        """Return the COPY text of a record's rows for each table; those of an array are made as they are taken.

        Raises RecordRefusal if the record can never load, perhaps when a row is taken.
        """
        if self.dataset.on_unknown == "reject" and (name := next(unknown(record, self.members), None)):
            reason = f"the definition does not know the member {paths.spelling(name)[:UNKNOWN_NAME_LENGTH]}"
            raise RecordRefusal(Misfit("23514", reason), self.dataset.tables[0], None)
        own = self._table_of(record)
        if own is None:
            raise RecordRefusal(
                Misfit("23514", "no table takes the record: `where` holds in none"), self.dataset.tables[0], None
            )
        has_children = not self._tables[own].table.deletes
        return [
            table.rows(record, lineage.of(table.table)) if number == own or (table.arrays and has_children) else []
            for number, table in enumerate(self._tables)
        ]

    def rows_together(
        self, records: Sequence[Any], lineages_of: Callable[[Table], Sequence[str]]
    ) -> list[Iterable[str]] | None:
        """Return the COPY text of the rows of many records for each table, or None where each needs a closer look.

        `lineages_of` returns the last columns of their rows. A row of an array is made when it is taken: RecordRefusal
        means then that each record needs a closer look.
        """
        if self._has_conditions or self.dataset.on_unknown == "reject" or set(map(type, records)) != {dict}:
            return None
        try:
            return [table.rows_together(records, lineages_of(table.table)) for table in self._tables]
        except (Misfit, RecordRefusal):
            return None

    def take_coerced(self) -> list[str]:
        """Return the columns of the texts that were not kept as they are written since the last call, one for each."""
        coerced = self._coerced[:]
        self._coerced.clear()
        return coerced

    def key_of(self, record: dict[str, Any]) -> str | None:
        """Return the record's key as text, or None if the record has no key or the key is no text."""
        keys = self._keys[self._table_of(record) or 0]
        try:
            return ", ".join(as_text(get(record, None, 0)) for get in keys) if keys else None
        except Misfit:
            return None

    def keys_of(self, record: dict[str, Any] | Fault) -> dict[int, str | None]:
        """Return the COPY text of a record's key for each table that may have its row, None where it is unreadable."""
        own = None if isinstance(record, Fault) else self._table_of(record)
        numbers = self._record_tables if own is None else [own]
        return {
            number: None if isinstance(record, Fault) else self._tables[number].key_text(self.dataset.key, record)
            for number in numbers
        }

    def _table_of(self, record: dict[str, Any]) -> int | None:
        """Return the number of the first table whose `where` holds for a record, or None."""
        for number in self._record_tables:
            takes = self._tables[number].takes
            if takes is None or takes(record, None, 0):
                return number
        return None


class RecordLineage(NamedTuple):
    """The last columns of the rows of a record: its place in the sources, and its digest where a table takes it."""

    place: str
    digest: str = NULL_TEXT

    def of(self, table: Table) -> str:
        """Return these columns for a row of a table."""
        return f"{self.place}\t{self.digest}\n" if table.has_digest else f"{self.place}\n"


class BatchBuilder:
    """Builds the batch of a piece: takes its records in order, and keeps their rows or rejects them.

    `digests` are those of the records that are added, by their places; empty: the rows have none.
    """

    def __init__(self, projection: Projection, lineage: str) -> None:
        self.rejected: list[Rejected] = []
        self.digests: Mapping[int, int] = {}
        self._nul_stripped = 0
        self._unknown: UnknownCounts | None = None
        self._coerced: Counter[str] = Counter()
        self._projection = projection
        self._lineage = lineage
        self._counts = [0 for _ in projection.dataset.tables]

    # Made for the first record: the fast path leaves it none of many batches.
    @cached_property
    def _buffers(self) -> list[RowBuffer]:
        return [RowBuffer() for _ in self._counts]

    def add(self, place: int, record: dict[str, Any] | Fault, *, is_counted: bool = True) -> None:
        """Add the rows of the record at this place, or reject it.

        `is_counted`: its unknown members were counted before.
        """
        if not is_counted:
            self.note_unknown([record])
        if isinstance(record, Fault):
            self.rejected.append(Rejected(place=place, key=None, fault=record))
            return
        try:
            self._add_rows_of(record, self._lineage_of(place))
        except RecordRefusal as refusal:
            key = self._projection.key_of(record)
            self.rejected.append(Rejected(place=place, key=key, fault=refusal.fault))

    def add_all(self, places: Sequence[int], records: Sequence[dict[str, Any] | Fault]) -> None:
        """Add the rows of the records at these places, or reject them."""
        texts = self._projection.rows_together(records, partial(self._lineages_of, places))
        try:
            if texts is not None:
                self._add_rows(texts)
                return
        except RecordRefusal:
            pass
        self._projection.take_coerced()
        for place, record in zip(places, records, strict=True):
            self.add(place, record)

    def _lineages_of(self, places: Sequence[int], table: Table) -> list[str]:
        if table.has_digest:
            return [self._lineage_of(place).of(table) for place in places]
        # As `of` writes it, without an object for each record.
        return [f"{self._lineage}\t{place}\n" for place in places]

    def _lineage_of(self, place: int) -> RecordLineage:
        place_text = f"{self._lineage}\t{place}"
        return RecordLineage(place_text, str(self.digests[place])) if self.digests else RecordLineage(place_text)

    def _add_rows(self, texts: Sequence[Iterable[str]]) -> None:
        """Add the rows of each table, or none of them.

        Raises RecordRefusal for a row that does not fit.
        """
        before = [(buffer.size, count) for buffer, count in zip(self._buffers, self._counts, strict=True)]
        try:
            for index, rows in enumerate(texts):
                self._counts[index] += self._buffers[index].add(rows)
        except RecordRefusal:
            for buffer, (size, _) in zip(self._buffers, before, strict=True):
                buffer.cut(size)
            self._counts = [count for _, count in before]
            self._projection.take_coerced()
            raise
        self._coerced.update(self._projection.take_coerced())

    def _add_rows_of(self, record: dict[str, Any], lineage: RecordLineage) -> None:
        try:
            self._add_rows(self._projection.rows_of(record, lineage))
        except RecordRefusal as refusal:
            self._projection.take_coerced()
            if self._projection.dataset.on_nul != "strip" or refusal.fault.sqlstate not in _NUL_SQLSTATES:
                raise
            stripped = without_nul(record)
            if stripped == record:
                raise
            self._add_rows(self._projection.rows_of(stripped, lineage))
            self._nul_stripped += 1

    def note_effects(self, rows: BlockRows) -> None:
        """Count the texts that columns do not store as written, and the unknown members, of rows of another path."""
        self._coerced.update(rows.coerced)
        if rows.unknown:
            self._unknown = self._unknown or UnknownCounts()
            self._unknown.add(rows.unknown, rows.unknown_others)

    def note_unknown(self, records: Iterable[dict[str, Any] | Fault]) -> None:
        """Count the members of records that the definition does not know, if it warns of them."""
        if self._projection.warns_of_unknown:
            self._unknown = self._unknown or UnknownCounts()
            records, members = list(records), self._projection.members
            if members is None or are_known(records, members):
                return
            for record in records:
                note_unknown(self._unknown, record, members)

    def batch(self, piece: Piece, places: Sequence[int]) -> Batch:
        """Return the batch of the piece."""
        rejected = tuple(self.rejected)
        return Batch(
            piece=piece, places=places, tables=self.tables(), rejected=rejected, policy_effects=self.policy_effects
        )

    @property
    def policy_effects(self) -> PolicyEffects:
        """The effects of the policies on the records so far."""
        return PolicyEffects(
            nul_stripped=self._nul_stripped,
            unknown=self._unknown.kept() if self._unknown else {},
            unknown_others=self._unknown.others if self._unknown else 0,
            coerced=dict(self._coerced),
        )

    def tables(self) -> tuple[tuple[Rows, ...], ...]:
        """Return the rows of each table."""
        if not any(self._counts):
            return tuple((Rows(format="text", buffers=(), count=0),) for _ in self._counts)
        return tuple(
            (Rows(format="text", buffers=(buffer,), count=count),)
            for buffer, count in zip(self._buffers, self._counts, strict=True)
        )


def _keys(dataset: Dataset, table: Table) -> list[Getter]:
    return [getter(column) for name in dataset.key if (column := table.column(name))]


def _require_fitting(dataset: Dataset) -> None:
    for table in dataset.tables:
        for column in table.columns:
            values = {"value": None if column.value == SOURCE else column.value, "default": column.default}
            for option, value in values.items():
                if value is None or value in column.null_if:
                    continue
                try:
                    converter(column)(Decimal(str(value)) if isinstance(value, float) else value)
                except Misfit as misfit:
                    where = f"{dataset.path}: table {table.name}, column {column.name}"
                    raise DefinitionError(f"{where}: the {option} does not fit: {misfit.reason}") from None
