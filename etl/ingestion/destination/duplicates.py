"""Records of one source that have the same key: which is the first of them, and what becomes of the others.

The keys of a run stand in a table of their own until the run is finished. Each batch notes its keys there in the
transaction that loads it: what was interrupted, killed or rolled back is in neither, and memory does not grow with the
source. Knows keys and places, and nothing of how rows are brought in.
"""

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table
from etl.ingestion.values import Fault

_SQL = queries.load("duplicates")

Settle = Callable[[psycopg.Connection, Sequence[sql.Identifier], Mapping[int, Fault]], tuple[Mapping[int, Fault], int]]
"""(tables with the rows of a batch, its faults by place) -> these with the duplicates refused, and how many are."""

_FIRSTS = sql.Identifier("pg_temp", "etl_firsts")


class RunKeys:
    """The keys of the records that a run, or a rehearsal, has brought in so far."""

    def __init__(self, dataset: Dataset, run: str, *, is_rehearsal: bool = False) -> None:
        self._run = run
        self._policy = dataset.on_duplicate
        self._is_rehearsal = is_rehearsal
        self._tables = [(number, table) for number, table in enumerate(dataset.tables) if not table.each]
        self._key = dataset.key
        self._words = {"key": sql.SQL(", ").join(map(sql.Identifier, dataset.key)), "firsts": _FIRSTS}

    @property
    def are_in_order(self) -> bool:
        """Whether it matters which batch comes before which."""
        return self._policy != "newest"

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the table where it is missing; of a run that was finished and goes on, with the keys of its rows."""
        for number, table in self._tables:
            keys = self._keys(number)
            with connection.transaction():
                if _is(connection, _SQL["has_keys"], {"keys": keys.as_string(connection)}):
                    continue
                words = self._words | {"keys": keys, "table": table.identifier}
                connection.execute(_SQL["make_keys"].format(**words))
                connection.execute(_SQL["make_keys_unique"].format(**words))
                if not self._is_rehearsal and _is(connection, _SQL["has_batches"], {"run": self._run}):
                    connection.execute(_SQL["fill_keys"].format(**words), {"run": self._run})

    def make_ready(self, connection: psycopg.Connection) -> None:
        """Make what a batch needs in its transaction, once per connection."""
        connection.execute(_SQL["make_firsts"].format(**self._words))
        connection.execute(_SQL["index_firsts"].format(**self._words))

    def noting(self, sources: Sequence[sql.Composable]) -> list[sql.Composed]:
        """Return the statements that note the keys of the records in these sources of rows, one for each table."""
        return [
            _SQL["note_keys"].format(**self._words, keys=self._keys(number), source=sources[number])
            for number, _ in self._tables
        ]

    def staying(self, sources: Sequence[sql.Composable]) -> Sequence[sql.Composable]:
        """Return of the sources, once their keys are noted, the rows that go on to the facts."""
        if self._policy == "newest":
            return sources
        return [_SQL["firsts_of"].format(**self._words, source=source) for source in sources]

    def settle(
        self, connection: psycopg.Connection, tables: Sequence[sql.Identifier], faults: Mapping[int, Fault]
    ) -> tuple[Mapping[int, Fault], int]:
        """Count the duplicates among the records of a batch that are not refused, and refuse them by the policy.

        `tables` hold all of its rows, whose keys are noted. Returns the faults by place, and how many duplicates.
        """
        left = {
            int(place): self._fault(table)
            for number, table in self._tables
            for (place,) in connection.execute(_SQL["places_left"].format(**self._words, source=tables[number]))
            if place not in faults
        }
        return ({**faults, **left} if self._policy == "reject" else faults), len(left)

    def drop(self, connection: psycopg.Connection) -> None:
        """Let go of the keys, in the transaction that finishes the run."""
        for number, _ in self._tables:
            connection.execute(_SQL["drop_keys"].format(keys=self._keys(number)))

    def _keys(self, number: int) -> sql.Identifier:
        return sql.Identifier("pg_temp" if self._is_rehearsal else "etl_staging", f"{self._run}_keys_{number}")

    def _fault(self, table: Table) -> Fault:
        return Fault(
            sqlstate="23505",
            reason=f"an earlier record of this source has the same key ({', '.join(self._key)})",
            table=table.name,
            column=self._key[0] if len(self._key) == 1 else None,
        )


def keys_of(dataset: Dataset, run: str, *, is_rehearsal: bool = False) -> RunKeys | None:
    """Return the keys of a run, or None where nobody asks for duplicates."""
    return RunKeys(dataset, run, is_rehearsal=is_rehearsal) if dataset.on_duplicate else None


def count_kept(connection: psycopg.Connection, table: sql.Identifier, refused: Mapping[int, Fault]) -> int:
    """Count the rows of a batch in a table of its own, but those of the refused records."""
    row = connection.execute(_SQL["count_kept"].format(table=table), {"refused": list(refused)}).fetchone()
    return int(row[0]) if row else 0


def _is(connection: psycopg.Connection, query: sql.SQL, values: Mapping[str, str]) -> bool:
    row = connection.execute(query, values).fetchone()
    return bool(row and row[0])
