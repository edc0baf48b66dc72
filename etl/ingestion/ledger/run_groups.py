"""The runs of several whole sources, each loaded by one batch: one statement enters all of them, a row for each."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg

from etl import queries
from etl.ingestion.fingerprints import Mark
from etl.ingestion.ledger import marks, runs
from etl.ingestion.ledger.marks import Anchor
from etl.ingestion.values import Entry, Piece
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("run_groups")

_SUFFIXES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class NewRuns:
    """The values that the new runs of a command share.

    `versions_of` is the table that gets the digests of records, `definition` the number of the definition in them.
    `is_examined`: unknown members of the records are counted or refused.
    """

    dataset: str
    definition_hash: str
    mode: Mode
    versions_of: str | None
    definition: int
    is_examined: bool


@dataclass(frozen=True, kw_only=True)
class WholeSource:
    """A source with one piece: its name, its sizes as stored and as read, and the marks by which its run is known.

    `time_ns` is the time of the file, if a later load may trust it.
    """

    name: str
    stored_bytes: int | None
    time_ns: int | None
    bytes_read: int
    piece: Piece
    marks: Sequence[Mark]
    anchor: Anchor


class Names:
    """Gives names to runs, in the order in which they begin, so that the indexes of the ledger stay dense."""

    def __init__(self) -> None:
        self._next = secrets.randbelow(_SUFFIXES)

    def take(self, count: int) -> Iterator[str]:
        """Yield so many names; those of one second of a command differ from one another."""
        if self._next + count > _SUFFIXES:
            self._next = 0
        begun = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        for suffix in range(self._next, self._next + count):
            yield f"{begun}-{suffix:06x}"
        self._next += count


class Begun(NamedTuple):
    """The numbers of the runs of a group, in the order of their sources, and that of their attempt."""

    runs: Sequence[int]
    attempt: int


class LoadedRun(NamedTuple):
    """A run of a group whose rows are sent: its name, its number, its source and the entry of its batch."""

    name: str
    number: int
    source: WholeSource
    entry: Entry


def begin(connection: psycopg.Connection, count: int, request: runs.AttemptRequest) -> Begun:
    """Enter the attempt of a group of so many runs, and take their numbers; the runs are entered after their rows.

    `request` is that of one of the sources.
    """
    values = runs.who() | {"folder": request.folder, "options": request.options, "count": count}
    found = connection.execute(_SQL["begin_group"], values).fetchall()
    return Begun(sorted(number for _, number in found), found[0][0])


def enter(connection: psycopg.Connection, new: NewRuns, loaded: Sequence[LoadedRun], attempt: int) -> None:
    """Enter each run with its batch and its marks, finished, and the end of their attempt.

    Listeners are notified.
    """
    sources = [each.source for each in loaded]
    pieces = [source.piece for source in sources]
    entries = [each.entry for each in loaded]
    marked = [marks.in_one_row(new.dataset, source.marks, source.anchor) for source in sources]
    examined = 0 if new.is_examined else new.definition
    values = {
        "runs": [each.name for each in loaded],
        "numbers": [each.number for each in loaded],
        "sources": [source.name for source in sources],
        "source_bytes": [source.stored_bytes for source in sources],
        "times": [source.time_ns for source in sources],
        "unknown_of": [new.definition if entry.policy_effects.unknown else examined for entry in entries],
        "bytes_after": [source.bytes_read - source.piece.offset - source.piece.length for source in sources],
        "offsets": [piece.offset for piece in pieces],
        "bytes": [piece.length for piece in pieces],
        "counts": [entry.loaded for entry in entries],
        "batch_hashes": [piece.hash for piece in pieces],
        # An array of arrays of different lengths is no array of the server.
        "rows": [_array(entry.rows) for entry in entries],
        "policies": [_policies(entry) for entry in entries],
        "rows_replaced": [entry.rows_replaced for entry in entries],
        # Nearly always it is the first mark, which is not stored twice.
        "anchor": [None if row["anchor"] == row["hashes"][0] else row["anchor"] for row in marked],
        **{name: [row[name] for row in marked] for name in ("parent", "places")},
        "hashes": [_array(row["hashes"]) for row in marked],
        "attempt": attempt,
    }
    connection.execute(_SQL["enter_runs"], vars(new) | values)
    connection.execute(_SQL["end_attempt"], {"number": attempt})
    connection.execute(_SQL["notify"], {"dataset": new.dataset})


def _array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def _policies(entry: Entry) -> str | None:
    effects = entry.policy_effects.document()
    return json.dumps(effects) if effects else None


def records_loaded(connection: psycopg.Connection, numbers: Sequence[int]) -> Mapping[str, int]:
    """Return the loaded records of these runs of a group by the ledger, by the names of the runs."""
    return dict(connection.execute(_SQL["loaded_of_runs"], {"numbers": list(numbers)}).fetchall())
