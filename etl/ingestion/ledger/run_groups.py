"""The runs of several whole sources, each loaded by one batch: few statements of one transaction enter all of them."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg

from etl import queries
from etl.errors import InternalError
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


def begin(
    connection: psycopg.Connection,
    new: NewRuns,
    names: Sequence[str],
    sources: Sequence[WholeSource],
    request: runs.AttemptRequest,
) -> Begun:
    """Enter a finished run of each source, and their attempt.

    `request` is that of one of the sources.
    """
    about = vars(new) | runs.who() | {"folder": request.folder, "options": request.options}
    values = about | {
        "unknown_of": 0 if new.is_examined else new.definition,
        "runs": list(names),
        "sources": [source.name for source in sources],
        "source_bytes": [source.stored_bytes for source in sources],
        "times": [source.time_ns for source in sources],
        "bytes_after": [source.bytes_read - source.piece.offset - source.piece.length for source in sources],
    }
    found = connection.execute(_SQL["open_runs"], values).fetchall()
    numbers: dict[str, int] = {run: number for run, number, _ in found}
    ordered = [numbers[name] for name in names]
    if ordered != sorted(ordered):
        raise InternalError("the ledger gave numbers to runs in another order than that of their sources")
    return Begun(ordered, found[0][2])


def enter(
    connection: psycopg.Connection,
    new: NewRuns,
    loaded: Sequence[tuple[str, int, WholeSource, Entry]],
    attempt: int,
) -> None:
    """Enter the batch and the marks of each run, given by its name, number, source and entry, and the end of all.

    Listeners are notified.
    """
    names = [name for name, _, _, _ in loaded]
    sources = [source for _, _, source, _ in loaded]
    entries = [entry for _, _, _, entry in loaded]
    batches = {
        "runs": names,
        "offsets": [source.piece.offset for source in sources],
        "bytes": [source.piece.length for source in sources],
        "counts": [source.piece.count for source in sources],
        "hashes": [source.piece.hash for source in sources],
        "loaded": [entry.loaded for entry in entries],
        # An array of arrays is one array of the server.
        "rows": [f"{{{','.join(map(str, entry.rows))}}}" for entry in entries],
        "policies": [_policies(entry) for entry in entries],
        "rows_replaced": [entry.rows_replaced for entry in entries],
    }
    connection.execute(_SQL["enter_batches"], batches)
    has_unknown = [name for name, entry in zip(names, entries, strict=True) if entry.policy_effects.unknown]
    if has_unknown:
        connection.execute(_SQL["note_unknown"], {"runs": has_unknown, "definition": new.definition})
    known = [(number, source.marks, source.anchor) for _, number, source, _ in loaded]
    marks.add_of_runs(connection, new.dataset, known)
    connection.execute(_SQL["end_attempt"], {"number": attempt})
    connection.execute(_SQL["notify"], {"dataset": new.dataset})


def _policies(entry: Entry) -> str | None:
    effects = entry.policy_effects.document()
    return json.dumps(effects) if effects else None


def records_loaded(connection: psycopg.Connection, names: Sequence[str]) -> Mapping[str, int]:
    """Return the loaded records of these runs by the ledger; a run that is not finished is missing."""
    return dict(connection.execute(_SQL["loaded_of_runs"], {"runs": list(names)}).fetchall())
