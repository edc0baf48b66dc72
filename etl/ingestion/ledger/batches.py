"""The batches of a run in the ledger: the transaction that loads a batch also enters it."""

from collections.abc import Sequence

import psycopg
from psycopg.types.json import Jsonb

from etl import queries
from etl.ingestion.ledger import failures
from etl.ingestion.ledger.runs import Run
from etl.ingestion.values import Entry, Failure, LoadedRange, Piece

_SQL = queries.load("ledger")


def ranges(connection: psycopg.Connection, run: str) -> dict[int, LoadedRange]:
    """Return the batches of a run by their offset, in the order of the source."""
    rows = queries.rows_as(LoadedRange, connection, _SQL["ranges"], {"run": run})
    return {row.offset: row for row in rows}


def claim(connection: psycopg.Connection, run: Run, piece: Piece) -> bool:
    """Claim a batch before its rows are sent; False when an earlier transaction entered it.

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
    return claimed.rowcount == 1


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
