"""The marks of the sources of runs, which tell to which run a source belongs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import psycopg
import xxhash
from psycopg.pq import TransactionStatus
from tenacity import Retrying

from etl import queries
from etl.errors import InternalError
from etl.ingestion.fingerprints import Mark
from etl.quick_dataclasses import dataclass

_SQL = queries.load("marks")

_ROWS = 64
"""Rows of marks that are read at a time: those of some hundred megabytes of a source."""

_MARKS_IN_ROW = 256

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the ledger; outside a transaction `again` tries a read again, and a transaction is tried as a whole.

    `connect` returns the connection, or a new one after it was lost.
    """

    connect: Callable[[], psycopg.Connection]
    again: Retrying | None = None

    def read(
        self, what: Callable[Concatenate[psycopg.Connection, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Return the result of a function that reads the ledger."""
        if self.again is None:
            return what(self.connect(), *args, **kwargs)
        # A lost connection is in no transaction.
        connection = self.again(self.connect)
        if connection.info.transaction_status not in {TransactionStatus.IDLE, TransactionStatus.UNKNOWN}:
            return what(connection, *args, **kwargs)
        return self.again(lambda: what(self.connect(), *args, **kwargs))


class Anchor(NamedTuple):
    """The mark by which a run is found, and the mark before it, at which many other runs are found."""

    mark: Mark
    parent: Mark | None


class Anchored(NamedTuple):
    """A run that is found by a mark, and its next marks; whether these are all.

    It is live until another run takes its place.
    """

    run: int
    is_live: bool
    after: Sequence[Mark]
    is_all: bool


def anchored(connection: psycopg.Connection, dataset: str, marks: Sequence[Mark]) -> list[list[Anchored]]:
    """Return for each mark the runs of a dataset that are anchored there: those that are found by this mark."""
    found: list[list[Anchored]] = [[] for _ in marks]
    salt = _salt(dataset)
    values = {"hashes": [mark.hash ^ salt for mark in marks], "dataset": dataset}
    for place, run, is_live, hashes, places, is_last in (
        connection.execute(_SQL["anchored_runs"], values) if marks else ()
    ):
        row = list(_decoded(dataset, hashes, places))
        if marks[place - 1] in row:
            after = row[row.index(marks[place - 1]) + 1 :]
            found[place - 1].append(Anchored(run, is_live, after, is_last))
    return found


def run_after(connection: psycopg.Connection, dataset: str, mark: Mark, records: int) -> int | None:
    """Return a run that has a mark, has more than so many records, and is found by the mark after it; None: none is."""
    values = {"dataset": dataset, "hash": mark.hash ^ _salt(dataset), "records": records}
    row = connection.execute(_SQL["run_after"], values).fetchone()
    return row[0] if row else None


class Following(NamedTuple):
    """A mark of a run, and whether marks may be missing before it: those of batches that are not loaded."""

    mark: Mark
    is_after_gap: bool


def following(connection: psycopg.Connection, dataset: str, run: int, records: int) -> tuple[list[Following], bool]:
    """Return some of the marks of a run after so many records, in order, and whether these are all."""
    values = {"run": run, "records": records, "most": _ROWS}
    rows = connection.execute(_SQL["marks_after"], values).fetchall()
    found: list[Following] = []
    last = records
    for row in rows:
        marks = list(_decoded(dataset, *row))
        is_after_gap = marks[0].records > last
        for mark in marks:
            if mark.records > last:
                found.append(Following(mark, is_after_gap))
                last = mark.records
                is_after_gap = False
    return found, len(rows) < _ROWS


def last(connection: psycopg.Connection, dataset: str, run: int) -> Mark | None:
    """Return the last mark of a run: the end of what is known of its source."""
    row = connection.execute(_SQL["last_marks"], {"run": run}).fetchone()
    return None if row is None else list(_decoded(dataset, *row))[-1]


def add(
    connection: psycopg.Connection, dataset: str, run: int, marks: Sequence[Mark], anchor: Anchor | None = None
) -> None:
    """Add marks of a run in their order; one of the first marks is the anchor of the run."""
    for values in _rows(dataset, run, marks, anchor):
        connection.execute(_SQL["add_marks"], values)


def in_one_row(dataset: str, marks: Sequence[Mark], anchor: Anchor) -> dict[str, Any]:
    """Return the columns for all marks of a run whose source is so small that they are one row.

    Raises InternalError when they are more.
    """
    rows = list(_rows(dataset, 0, marks, anchor))
    if len(rows) != 1:
        raise InternalError(f"expected marks for one row, got {len(marks)}")
    return rows[0]


def _rows(dataset: str, run: int, marks: Sequence[Mark], anchor: Anchor | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the ledger for marks of a run."""
    salt = _salt(dataset)
    for first in range(0, len(marks), _MARKS_IN_ROW):
        row = marks[max(0, first - 1) : first + _MARKS_IN_ROW]
        values: dict[str, Any] = {
            "run": run,
            "last_record": row[-1].records,
            "anchor": None,
            "parent": None,
            "hashes": [mark.hash ^ salt for mark in row],
            "places": _encoded(row),
        }
        if anchor is not None and anchor.mark in row:
            values["anchor"] = anchor.mark.hash ^ salt
            values["parent"] = anchor.parent.hash ^ salt if anchor.parent else None
            anchor = None
        yield values


def first_batches(connection: psycopg.Connection, dataset: str) -> list[tuple[int, int]]:
    """Return where the first batches of the runs without marks begin and end."""
    return connection.execute(_SQL["first_batches"], {"dataset": dataset}).fetchall()


def runs_of_first_batches(connection: psycopg.Connection, dataset: str, hashes: Sequence[bytes]) -> dict[int, bytes]:
    """Return the runs without marks whose first batch has one of these hashes, with the hash."""
    values = {"dataset": dataset, "hashes": list(hashes)}
    return dict(connection.execute(_SQL["runs_of_first_batches"], values).fetchall())


def forget_first_batch(connection: psycopg.Connection, run: int) -> None:
    """Note that a run has marks now."""
    connection.execute(_SQL["forget_first_batch"], {"run": run})


def _salt(dataset: str) -> int:
    """Return the number that keeps the marks of different datasets apart in one index."""
    return int.from_bytes(xxhash.xxh3_64_digest(dataset.encode()), "big", signed=True)


def _encoded(marks: Iterable[Mark]) -> bytes:
    """Return the places of marks: the numbers of records and bytes from each mark to the next one."""
    parts = []
    records = end = 0
    for mark in marks:
        parts += [encode_number(mark.records - records), encode_number(mark.end - end)]
        records, end = mark.records, mark.end
    return b"".join(parts)


def _decoded(dataset: str, hashes: Sequence[int], places: bytes) -> Iterator[Mark]:
    salt = _salt(dataset)
    records = end = at = 0
    for hash_ in hashes:
        number, at = decode_number(places, at)
        records += number
        number, at = decode_number(places, at)
        end += number
        yield Mark(records, end, hash_ ^ salt)


def encode_number(number: int) -> bytes:
    """Return a number in LEB128."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decode_number(data: bytes, at: int) -> tuple[int, int]:
    """Return the number in LEB128 that begins at a byte, and the byte after it."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
