"""Duplicates: records of one source that have the same key, and what the policy of the dataset makes of them.

The keys of a run are kept in a table of their own until the run is finished. Each batch notes its keys there in the
transaction that loads it: a batch that was interrupted or rolled back leaves neither rows nor keys, and memory does not
grow with the source. Knows keys and the places of records, and not how rows are written.
"""

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table
from etl.ingestion.values import Fault

_SQL = queries.load("duplicates")
_STAGING = queries.load("staging")
_TABLES = queries.load("tables")

JudgeDuplicates = Callable[
    [psycopg.Connection, Sequence[sql.Identifier], Mapping[int, Fault]], tuple[Mapping[int, Fault], int]
]
"""Applies the duplicate policy to a loaded batch, given the tables with its rows and its faults by place: returns all
faults by place, and the number of duplicates.
"""

_FIRSTS = sql.Identifier("pg_temp", "etl_firsts")


class RunKeys:
    """The keys of the records that a run, or a dry run, has loaded so far."""

    def __init__(
        self, dataset: Dataset, run: str, staging: Sequence[sql.Identifier] = (), *, is_dry_run: bool = False
    ) -> None:
        """`staging` are the tables that gather the rows of the run, if it is atomic."""
        self._run = run
        self._staging = staging
        self._policy = dataset.on_duplicate
        self._is_dry_run = is_dry_run
        self._tables = [(number, table) for number, table in enumerate(dataset.tables) if not table.each]
        self._key = dataset.key
        self._identifiers = {"key": sql.SQL(", ").join(map(sql.Identifier, dataset.key)), "firsts": _FIRSTS}

    @property
    def are_in_order(self) -> bool:
        """Whether the batches must be on the disk in the order of the source."""
        return self._policy != "newest"

    @property
    def keep_first(self) -> bool:
        """Whether the rows of the duplicates are kept out of the tables, although their records count as loaded."""
        return self._policy == "first"

    def prepare(self, connection: psycopg.Connection) -> None:
        """Make the tables of keys that are missing, and add the keys of loaded rows where some are missing.

        A finished run that continues has no keys any more, and the keys of an interrupted one may be gone.
        """
        with connection.transaction():
            for number, table in self._tables:
                keys = self._keys(number)
                if not _is(connection, _TABLES["exists"], {"table": keys.as_string(connection)}):
                    names = self._identifiers | {"keys": keys, "table": table.identifier}
                    connection.execute(_SQL["make_keys"].format(**names))
                    connection.execute(_TABLES["add_primary_key"].format(**names | {"table": keys}))
            if self._is_dry_run:
                return
            sums = [_TABLES["row_count"].format(table=self._keys(number)) for number, _ in self._tables]
            if _is(connection, _SQL["lacks_keys"].format(counts=sql.SQL(" + ").join(sums)), {"run": self._run}):
                self._fill(connection)

    def _fill(self, connection: psycopg.Connection) -> None:
        for number, table in self._tables:
            rows: sql.Composable = table.identifier
            if self._staging:
                names = {"table": table.identifier, "staging": self._staging[number]} | self._identifiers
                rows = _SQL["published_and_staged"].format(**names)
            names = self._identifiers | {"keys": self._keys(number), "rows": rows}
            connection.execute(_SQL["fill_keys"].format(**names), {"run": self._run})

    def withdraw(self, connection: psycopg.Connection, batches: Sequence[int]) -> None:
        """Remove the keys that these batches noted, given by their offsets: their records load again."""
        for number, _ in self._tables:
            connection.execute(_TABLES["delete_batches"].format(table=self._keys(number)), {"batches": list(batches)})

    def make_batch_tables(self, connection: psycopg.Connection) -> None:
        """Make the temporary table that a batch needs in its transaction, once per connection."""
        connection.execute(_STAGING["make_places"].format(places=self._identifiers["firsts"]))
        connection.execute(_SQL["index_firsts"].format(**self._identifiers))

    def note(self, sources: Sequence[sql.Composable]) -> list[sql.Composed]:
        """Return the statements that note the keys of the records in these sources of rows, one for each table."""
        return [
            _SQL["note_keys"].format(**self._identifiers, keys=self._keys(number), source=sources[number])
            for number, _ in self._tables
        ]

    def filter_duplicates(self, sources: Sequence[sql.Composable]) -> Sequence[sql.Composable]:
        """Return the rows of these sources that the policy lets into the facts, once their keys are noted."""
        if self._policy == "newest":
            return sources
        return [_SQL["firsts_of"].format(**self._identifiers, source=source) for source in sources]

    def judge(
        self, connection: psycopg.Connection, tables: Sequence[sql.Identifier], faults: Mapping[int, Fault]
    ) -> tuple[Mapping[int, Fault], int]:
        """Count the duplicates among the records of a batch that are not refused, and refuse them by the policy.

        `tables` hold all rows of the batch, whose keys are noted. Returns all faults by place, and the number of
        duplicates.
        """
        duplicates = {
            int(place): self._fault(table)
            for number, table in self._tables
            for (place,) in connection.execute(
                _SQL["duplicate_places"].format(**self._identifiers, source=tables[number])
            )
            if place not in faults
        }
        return ({**faults, **duplicates} if self._policy == "reject" else faults), len(duplicates)

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the keys, in the transaction that finishes the run."""
        for number, _ in self._tables:
            connection.execute(_TABLES["drop"].format(table=self._keys(number)))

    def _keys(self, number: int) -> sql.Identifier:
        return sql.Identifier("pg_temp" if self._is_dry_run else "etl_staging", f"{self._run}_keys_{number}")

    def _fault(self, table: Table) -> Fault:
        return Fault(
            sqlstate="23505",
            reason=f"an earlier record of this source has the same key ({', '.join(self._key)})",
            table=table.name,
            column=self._key[0] if len(self._key) == 1 else None,
        )


def count_kept(connection: psycopg.Connection, table: sql.Identifier, refused: Mapping[int, Fault]) -> int:
    """Count the rows of a batch that belong to no refused record."""
    row = connection.execute(_SQL["count_kept"].format(table=table), {"refused": list(refused)}).fetchone()
    return int(row[0]) if row else 0


def _is(connection: psycopg.Connection, query: sql.SQL | sql.Composed, values: Mapping[str, str]) -> bool:
    row = connection.execute(query, values).fetchone()
    return bool(row and row[0])
