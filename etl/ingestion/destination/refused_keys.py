"""The keys of the records that a replace rejects: the rows of these keys stay when the run is published.

The keys are in tables until the run is published, one for each table of records. Each batch notes its keys there in the
transaction that loads it, so that memory does not grow with the number of rejected records.
"""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import NamedTuple

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset
from etl.ingestion.destination import refusals
from etl.ingestion.destination.sending import Exchange, Waiting
from etl.ingestion.values import Rows

_SQL = queries.load("replacing")
_TABLES = queries.load("tables")

Keys = Mapping[int, str | None]
"""The key of a record in COPY's text format for each table that may have a row of it, None where it is unreadable."""


class Refused(NamedTuple):
    """Whether records of a table were rejected, and whether the key of one of them cannot be read."""

    has_keys: bool
    has_unreadable: bool


class RefusedKeys:
    """The keys of the records that a run has rejected so far."""

    def __init__(self, dataset: Dataset, run: str) -> None:
        self._run = run
        self._key = sql.SQL(", ").join(map(sql.Identifier, dataset.key))
        self._first_key = sql.Identifier(dataset.key[0])
        self._facts = {number: table.identifier for number, table in enumerate(dataset.tables) if not table.each}
        self.identifiers = {number: sql.Identifier("etl_staging", f"{run}_refused_{number}") for number in self._facts}

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the tables that are missing.

        If they have fewer keys than the run has refused records, any key may be lost: one counts as unreadable.
        """
        with connection.transaction():
            for number, refused in self.identifiers.items():
                if not self._exists(connection, refused):
                    names = {"refused": refused, "key": self._key, "table": self._facts[number]}
                    connection.execute(_SQL["make_refused"].format(**names))
            if self.lacks_keys(connection):
                for refused in self.identifiers.values():
                    self._note_unreadable(connection, refused, 1)

    def lacks_keys(self, connection: psycopg.Connection) -> bool:
        """Return whether a table is missing, or fewer keys are noted than the run has refused records."""
        found = [refused for refused in self.identifiers.values() if self._exists(connection, refused)]
        sums = [sql.SQL("0"), *(_TABLES["row_count"].format(table=refused) for refused in found)]
        lacks = _SQL["lacks_refused"].format(counts=sql.SQL(" + ").join(sums))
        return _answer(connection, lacks, {"run": self._run})[0]

    def _exists(self, connection: psycopg.Connection, refused: sql.Identifier) -> bool:
        return _answer(connection, _TABLES["exists"], {"table": refused.as_string(connection)})[0]

    def note(self, exchange: Exchange, keys: Sequence[Keys]) -> Waiting[None]:
        """Note the keys of the rejected records of a batch."""
        for number, refused in self.identifiers.items():
            texts = [key[number] for key in keys if number in key]
            lines = [f"{text}\n" for text in texts if text is not None]
            unreadable = len(texts) - len(lines)
            if lines and not (yield from self._send(exchange, refused, lines)):
                unreadable = len(texts)
            if unreadable:
                self._note_unreadable(exchange.connection, refused, unreadable)

    def _note_unreadable(self, connection: psycopg.Connection, refused: sql.Identifier, records: int) -> None:
        names = {"refused": refused, "first_key": self._first_key}
        connection.execute(_SQL["note_unreadable"].format(**names), {"records": records})

    def _send(self, exchange: Exchange, refused: sql.Identifier, lines: Sequence[str]) -> Waiting[bool]:
        """Send keys; return False when the server refuses one, so that no row can have it."""
        rows = Rows(format="text", buffers=(StringIO("".join(lines)),), count=len(lines))
        try:
            with exchange.connection.transaction():
                yield from exchange.send((rows,), refused, self._key)
        except psycopg.Error as error:
            if refusals.meaning(error) != "data":
                raise
            return False
        return True

    def state(self, connection: psycopg.Connection, number: int) -> Refused:
        """Return what is known of the rejected records of the table of this number."""
        statement = _SQL["has_refused_keys"].format(refused=self.identifiers[number], first_key=self._first_key)
        return Refused(*_answer(connection, statement))

    def analyze(self, connection: psycopg.Connection) -> None:
        """Update the planner's statistics of the keys."""
        for refused in self.identifiers.values():
            connection.execute(_TABLES["analyze"].format(table=refused))

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the keys, in the transaction that publishes the run."""
        for refused in self.identifiers.values():
            connection.execute(_TABLES["drop"].format(table=refused))


def _answer(
    connection: psycopg.Connection, statement: sql.SQL | sql.Composed, values: Mapping[str, str] | None = None
) -> tuple[bool, ...]:
    row = connection.execute(statement, values).fetchone()
    return tuple(map(bool, row or (False,)))
