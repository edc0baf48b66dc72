"""The batches of a run in the ledger: each is entered by the transaction that loads it."""

from collections.abc import Iterable

import psycopg
from psycopg.types.json import Jsonb

from etl import queries
from etl.ingestion.ledger import failures
from etl.ingestion.ledger.runs import Run
from etl.ingestion.values import Entry, Failure, LoadedRange, Piece

_SQL = queries.load("ledger")


def ranges(connection: psycopg.Connection, run: str) -> dict[int, LoadedRange]:
    """List the batches that a run holds, by offset."""
    return {
        row[0]: LoadedRange(offset=row[0], length=row[1], count=row[2], first_record=row[3], hash=row[4])
        for row in connection.execute(_SQL["ranges"], {"run": run})
    }


def claim(connection: psycopg.Connection, run: Run, piece: Piece) -> bool:
    """Claim a batch before its rows are sent; False when a transaction before this one entered it.

    A connection that was lost while it committed leaves it open whether it did: claiming again waits for the old
    transaction to end and then knows.
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
    return claimed.rowcount == 1


def enter(connection: psycopg.Connection, run: Run, piece: Piece, entry: Entry, stored: Iterable[Failure]) -> None:
    """Enter what became of a claimed batch, and the files of the failed store that hold the rest of it."""
    effects = entry.policy_effects.document()
    values = vars(entry) | {
        "rows": list(entry.rows),
        "run": run.run,
        "offset": piece.offset,
        "policies": Jsonb(effects) if effects else None,
    }
    connection.execute(_SQL["enter_batch"], values)
    failures.enter(connection, stored)


def first_record(connection: psycopg.Connection, run: str, offset: int) -> int:
    """Return the number of the first record of a batch."""
    return int(queries.one(connection, _SQL["first_record"], {"run": run, "offset": offset})["first_record"])
