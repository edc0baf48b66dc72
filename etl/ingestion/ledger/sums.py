"""The sums of an attempt, computed from the ledger and from nothing else."""

from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from etl import queries
from etl.ingestion.ledger.runs import Run, is_complete
from etl.ingestion.values import Balance, PolicyEffects

_SQL = queries.load("ledger")


class Totals(NamedTuple):
    """The records of all batches of a run, over all its attempts, and how many of them were rejected."""

    records: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class AttemptSums:
    """The records of one attempt, and its batches: `batches_loaded` are those with or without rejected records."""

    loaded: int
    rejected: int
    failed: int
    batches_loaded: int
    batches_failed: int


def totals(connection: psycopg.Connection, run: str) -> Totals:
    """Add up the records of a run over all its attempts."""
    return queries.one_as(Totals, connection, _SQL["totals"], {"run": run})


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
        pending=int(queries.one(connection, _SQL["pending_of_run"], {"run": run.run})["pending"]),
    )


def rows(connection: psycopg.Connection, run: Run) -> list[int]:
    """Add up the rows that COPY counted in an attempt, for each table of the dataset in its order."""
    values = {"run": run.run, "attempt": run.attempt}
    return [int(count) for _, count in connection.execute(_SQL["rows_of_attempt"], values)]


def policy_effects(connection: psycopg.Connection, run: Run) -> PolicyEffects:
    """Add up the effects of the policies on the records of an attempt."""
    row = queries.one(connection, _SQL["policies_of_attempt"], {"run": run.run, "attempt": run.attempt})
    return PolicyEffects(nul_stripped=row["nul_stripped"], duplicates=row["duplicates"], unknown=tuple(row["unknown"]))
