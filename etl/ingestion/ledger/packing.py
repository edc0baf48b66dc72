"""The batches of an old run become one row of the ledger, and so do its attempts.

A row of several batches keeps where each of them begins, its bytes, its records and its hash, so that a row of a table
still leads to its record.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from etl import queries
from etl.ingestion.ledger.marks import decode_number, encode_number
from etl.quick_dataclasses import dataclass

_SQL = queries.load("packing")

_HASH_BYTES = 16

# The columns for the bytes and the records of a row are 32 bits wide.
_MOST = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A batch: where it begins and how long it is in the source, its records, and the hash of its bytes."""

    offset: int
    length: int
    first_record: int
    count: int
    hash: bytes


_COUNTS = ("count_loaded", "count_rejected", "count_failed", "rows_replaced", "count_unchanged", "count_deleted")
"""The counts of a batch that are added up."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of `etl.batches`; `count_replaces` are the replaces of the dataset that were published before it."""

    offset: int
    length: int
    first_record: int
    count_records: int
    hash: bytes
    count_loaded: int | None
    count_rejected: int | None
    count_failed: int | None
    rows: list[int | None] | None
    policies: dict[str, Any] | None
    rows_replaced: int | None
    count_unchanged: int | None
    count_deleted: int | None
    part_offsets: list[int] | None
    parts: bytes | None
    day: date
    count_replaces: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for batches that become one row: the day, the replaces before, and which counts they have."""
        is_counted = tuple(getattr(self, name) is not None for name in _COUNTS)
        rows = None if self.rows is None else tuple(count is not None for count in self.rows)
        # An older version entered the names of unknown members without counts.
        are_named = isinstance((self.policies or {}).get("unknown"), list)
        return self.day, self.count_replaces, is_counted, rows, self.offset if are_named else None


def runs_of_age(connection: psycopg.Connection, age: timedelta, dataset: str | None) -> list[str]:
    """Return the finished runs of this age with several batches or attempts, of which nothing waits."""
    values = {"age": age, "dataset": dataset}
    return [run for (run,) in connection.execute(_SQL["runs_to_pack"], values).fetchall()]


def is_packable(connection: psycopg.Connection, run: str) -> bool:
    """Return whether a run is finished, and nothing of it waits; the caller holds the run."""
    row = connection.execute(_SQL["is_packable"], {"run": run}).fetchone()
    return bool(row and row[0])


def pack(connection: psycopg.Connection, run: str) -> tuple[int, int, int]:
    """Pack a run in the caller's transaction; return its batches and the rows of them, and the attempts removed."""
    found = queries.rows_as(_Row, connection, _SQL["batches_of_run"], {"run": run})
    rows = 0
    for group in _groups(found):
        rows += 1
        if len(group) > 1:
            connection.execute(_SQL["pack"], _packed(group) | {"run": run})
            removed = [row.offset for row in group[1:]]
            connection.execute(_SQL["remove_batches"], {"run": run, "offsets": removed})
    row = connection.execute(_SQL["pack_attempts"], {"run": run}).fetchone()
    return len(found), rows, int(row[0]) if row else 0


def parts_of(first_record: int, part_offsets: Sequence[int], parts: bytes) -> Iterator[Part]:
    """Yield the batches of a row of several."""
    at = 0
    for begin in part_offsets:
        length, at = decode_number(parts, at)
        count, at = decode_number(parts, at)
        yield Part(
            offset=begin, length=length, first_record=first_record, count=count, hash=parts[at : at + _HASH_BYTES]
        )
        first_record, at = first_record + count, at + _HASH_BYTES


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Yield batches of a run in groups: those of a group become one row."""
    group: list[_Row] = []
    length = 0
    for row in rows:
        is_next = bool(group) and group[-1].first_record + group[-1].count_records == row.first_record
        length += row.length
        if is_next and row.kind == group[0].kind and length <= _MOST:
            group.append(row)
            continue
        if group:
            yield group
        group, length = [row], row.length
    if group:
        yield group


def _packed(rows: Sequence[_Row]) -> dict[str, Any]:
    """Return the columns of the row that takes the place of these."""
    parts = [part for row in rows for part in _parts(row)]
    policies = _sum([row.policies or {} for row in rows])
    counts = [row.rows for row in rows if row.rows is not None]
    return {
        "offset": rows[0].offset,
        "bytes": sum(row.length for row in rows),
        "count_records": sum(row.count_records for row in rows),
        **{name: _total([getattr(row, name) for row in rows]) for name in _COUNTS},
        "rows": [_total(of_table) for of_table in zip(*counts, strict=True)] if counts else None,
        "policies": Jsonb(policies) if policies else None,
        "part_offsets": [part.offset for part in parts],
        "parts": b"".join(encode_number(part.length) + encode_number(part.count) + part.hash for part in parts),
    }


def _parts(row: _Row) -> Iterator[Part]:
    if row.part_offsets is not None and row.parts is not None:
        yield from parts_of(row.first_record, row.part_offsets, row.parts)
        return
    yield Part(
        offset=row.offset, length=row.length, first_record=row.first_record, count=row.count_records, hash=row.hash
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """Return a sum; None where nothing was counted."""
    return None if None in counts else sum(count for count in counts if count is not None)


def _sum(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the effects of policies: numbers, numbers by name, and numbers by table."""
    sums: dict[str, Any] = {}
    for document in documents:
        for name, value in document.items():
            if isinstance(value, dict):
                sums[name] = dict(Counter(sums.get(name, {})) + Counter(value))
            elif isinstance(value, list):
                sums[name] = [a + b for a, b in zip(sums.get(name, [0] * len(value)), value, strict=True)]
            else:
                sums[name] = sums.get(name, 0) + value
    return sums
