"""What the batches of an attempt add up to: what an attempt did is added up from the ledger and nowhere else."""

import psycopg

from etl import queries
from etl.ingestion.ledger.runs import Run, is_complete
from etl.ingestion.values import Balance, PolicyEffects

_SQL = queries.load("ledger")


def totals(connection: psycopg.Connection, run: str) -> tuple[int, int]:
    """Add up the records entered and the records rejected over all attempts of a run."""
    row = queries.one(connection, _SQL["totals"], {"run": run})
    return int(row["records"]), int(row["rejected"])


def balance(connection: psycopg.Connection, run: Run, *, read: int, skipped: int, unentered: int) -> Balance:
    """Add up an attempt from the ledger.

    `read` and `skipped` are records as they were cut from the source; `unentered` of them were read and never
    entered, because the attempt stopped.
    """
    row = queries.one(connection, _SQL["balance"], {"run": run.run, "attempt": run.attempt})
    is_hidden = run.is_atomic and not is_complete(connection, run.run)
    loaded = int(row["loaded"])
    return Balance(
        read=read,
        loaded=0 if is_hidden else loaded,
        rejected=int(row["rejected"]),
        failed=int(row["failed"]),
        skipped=skipped,
        withheld=unentered + (loaded if is_hidden else 0),
        pending=int(queries.one(connection, _SQL["pending_of_run"], {"run": run.run})["pending"]),
    )


def batch_counts(connection: psycopg.Connection, run: Run) -> dict[str, int]:
    """Count the batches that an attempt entered: loaded (with or without rejects) and failed."""
    row = queries.one(connection, _SQL["balance"], {"run": run.run, "attempt": run.attempt})
    return {"loaded": int(row["batches_loaded"]), "failed": int(row["batches_failed"])}


def rows(connection: psycopg.Connection, run: Run) -> list[int]:
    """Add up the rows that COPY counted in an attempt, for each table of the dataset in its order."""
    values = {"run": run.run, "attempt": run.attempt}
    return [int(count) for _, count in connection.execute(_SQL["rows_of_attempt"], values)]


def policy_effects(connection: psycopg.Connection, run: Run) -> PolicyEffects:
    """Add up what policies did with the records of an attempt."""
    row = queries.one(connection, _SQL["policies_of_attempt"], {"run": run.run, "attempt": run.attempt})
    return PolicyEffects(nul_stripped=row["nul_stripped"], duplicates=row["duplicates"], unknown=tuple(row["unknown"]))
