"""The batches of a run in the ledger: the transaction that loads a batch also enters it; and the sums of batches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from etl import queries
from etl.errors import SourceError
from etl.ingestion.constants import UNKNOWN_NAMES
from etl.ingestion.ledger import failures
from etl.ingestion.ledger.runs import Run, is_complete
from etl.ingestion.summary import Balance
from etl.ingestion.values import Entry, Failure, LoadedRange, Piece, PolicyEffects
from etl.quick_dataclasses import dataclass

_SQL = queries.load("ledger")


class Totals(NamedTuple):
    """The records of all batches of a run, over all its attempts, and how many of them were rejected."""

    records: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class UnknownMembers:
    """The records of a run by their unknown members, and the sum of such counts of members that are not named."""

    unknown: Mapping[str, int]
    unknown_others: int

    @property
    def ordered(self) -> list[tuple[str, int]]:
        """The names with their counts, the largest count first."""
        return sorted(self.unknown.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, kw_only=True)
class AttemptSums:
    """The records of one attempt, and its batches: `batches_loaded` are those with or without rejected records."""

    loaded: int
    rejected: int
    failed: int
    unchanged: int
    deleted: int | None
    batches_loaded: int
    batches_failed: int


def ranges(connection: psycopg.Connection, run: str) -> list[LoadedRange]:
    """Return the batches of a run, in the order of the source."""
    return queries.rows_as(LoadedRange, connection, _SQL["ranges"], {"run": run})


def record_ranges(connection: psycopg.Connection, run: str) -> list[tuple[int, int]]:
    """Return the records of a run that are in the ledger: the first and the last of each range, in order."""
    found: list[tuple[int, int]] = []
    for first, last in connection.execute(_SQL["record_ranges"], {"run": run}):
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def claim(connection: psycopg.Connection, run: Run, piece: Piece) -> bool:
    """Claim a batch before its rows are sent; False when an earlier transaction entered it.

    Raises SourceError when another batch of the run is at this byte: the source is written in another way.

    When a connection is lost during a commit, the result of the commit is unknown. To claim the batch again waits for
    the end of the old transaction and then gives the answer.
    """
    claimed = connection.execute(
        _SQL["claim_batch"],
        {
            "run": run.run,
            "offset": piece.offset,
            "bytes": piece.length,
            "first_record": piece.first_record,
            "count": piece.count,
            "hash": piece.hash,
            "attempt": run.attempt,
        },
    )
    if claimed.rowcount == 1:
        return True
    if first_record(connection, run.run, piece.offset) != piece.first_record:
        raise SourceError(
            f"record {piece.first_record} is at byte {piece.offset}, where run {run.run} has another record",
            hint="load the rest from the source as the run knows it; --force loads all of this one, in append also"
            " what is loaded",
        )
    return False


def entered(connection: psycopg.Connection, run: Run, piece: Piece) -> Entry | None:
    """Return the result of a batch that the same attempt of its run entered with the same bytes; None without one."""
    values = {
        "run": run.run,
        "attempt": run.attempt,
        "offset": piece.offset,
        "count": piece.count,
        "hash": piece.hash,
    }
    found = queries.rows_as(Entry, connection, _SQL["entered_batch"], values)
    return replace(found[0], rows=tuple(found[0].rows)) if found else None


def are_failing(connection: psycopg.Connection, run: Run, piece: Piece, number: int) -> bool:
    """Return whether the last batches of the run that were entered before this one failed, `number` of them.

    Until the end of the transaction no other batch of the run can fail.
    """
    connection.execute(_SQL["lock_failing"], {"run": run.run})
    values = {"run": run.run, "offset": piece.offset, "number": number}
    return bool(queries.one(connection, _SQL["are_failing"], values)["are_failing"])


def enter(connection: psycopg.Connection, run: Run, piece: Piece, entry: Entry, stored: Sequence[Failure]) -> None:
    """Enter the result of a claimed batch, and the files of the failed store that keep its refused records."""
    effects = entry.policy_effects.document()
    values = vars(entry) | {
        "rows": list(entry.rows),
        "run": run.run,
        "offset": piece.offset,
        "policies": Jsonb(effects) if effects else None,
    }
    connection.execute(_SQL["enter_batch"], values)
    if stored:
        failures.enter(connection, stored)


def first_record(connection: psycopg.Connection, run: str, offset: int) -> int:
    """Return the number of the first record of a batch.

    Raises InternalError when the run has no batch at this offset.
    """
    return int(queries.one(connection, _SQL["first_record"], {"run": run, "offset": offset})["first_record"])


def totals(connection: psycopg.Connection, run: str) -> Totals:
    """Add up the records of a run over all its attempts."""
    return queries.one_as(Totals, connection, _SQL["totals"], {"run": run})


def loaded(connection: psycopg.Connection, run: str) -> int:
    """Count the loaded records of a run over all its attempts."""
    return int(queries.one(connection, _SQL["loaded_of_run"], {"run": run})["loaded"])


def staged(connection: psycopg.Connection, run: str) -> dict[int, tuple[int, ...] | None]:
    """Return the rows of an atomic run that wait for its publication, as its batches were entered.

    These are the rows of each batch, given by its offset, for each table of the dataset in its order; None where an
    older version did not count them.
    """
    entered = connection.execute(_SQL["staged_of_run"], {"run": run})
    return {offset: None if rows is None else tuple(rows) for offset, rows in entered}


def with_refused(connection: psycopg.Connection, run: str) -> set[int]:
    """Return the offsets of the batches of a run that have records which did not load."""
    return {offset for (offset,) in connection.execute(_SQL["batches_with_refused"], {"run": run})}


def withdraw(connection: psycopg.Connection, run: str, offsets: Sequence[int]) -> None:
    """Remove batches of a run from the ledger, with their failures: their records load again."""
    connection.execute(_SQL["withdraw_batches"], {"run": run, "batches": list(offsets)})


def of_attempt(connection: psycopg.Connection, run: Run) -> AttemptSums:
    """Add up the records and the batches of an attempt."""
    return queries.one_as(AttemptSums, connection, _SQL["balance"], {"run": run.run, "attempt": run.attempt})


def balance(
    connection: psycopg.Connection, run: Run, sums: AttemptSums, *, read: int, skipped: int, unentered: int
) -> Balance:
    """Return the balance of an attempt from its sums.

    `read` and `skipped` are records that were cut from the source; `unentered` of them have no batch in the ledger,
    because the attempt stopped before.
    """
    is_hidden = run.is_atomic and not is_complete(connection, run.run)
    return Balance(
        read=read,
        loaded=0 if is_hidden else sums.loaded,
        rejected=sums.rejected,
        failed=sums.failed,
        skipped=skipped,
        withheld=unentered + (sums.loaded if is_hidden else 0),
        unchanged=0 if is_hidden else sums.unchanged,
        pending=int(queries.one(connection, _SQL["pending_of_run"], {"run": run.run})["pending"]),
        deleted=0 if is_hidden and sums.deleted else sums.deleted,
    )


def rows(connection: psycopg.Connection, run: Run) -> list[int]:
    """Add up the rows that COPY counted in an attempt, for each table of the dataset in its order."""
    values = {"run": run.run, "attempt": run.attempt}
    return [int(count) for _, count in connection.execute(_SQL["rows_of_attempt"], values)]


def policy_effects(connection: psycopg.Connection, run: Run) -> PolicyEffects:
    """Add up the effects of the policies on the records of an attempt; unknown members are those of the whole run."""
    members = unknown_members(connection, run.run)
    row = queries.one(connection, _SQL["policies_of_attempt"], {"run": run.run, "attempt": run.attempt})
    return PolicyEffects(
        nul_stripped=row["nul_stripped"],
        duplicates=row["duplicates"],
        unknown=members.unknown,
        unknown_others=members.unknown_others,
        coerced=row["coerced"] or {},
    )


def unknown_members(connection: psycopg.Connection, run: str) -> UnknownMembers:
    """Count the records of a run that have each member that its definition does not know, over all its attempts."""
    return queries.one_as(UnknownMembers, connection, _SQL["unknown_members"], {"run": run, "most": UNKNOWN_NAMES})
