"""Deleted rows of the tables or of the ledger: a load would take them for loaded, or load others twice.

Emptied tables hold no row of the runs that the ledger knows: they were made anew, restored without data, or emptied by
hand. The rows themselves show it, because each carries the number of its run: after a restore with data nothing is
missing, whatever identity the server gives to the tables.
"""

from collections.abc import Sequence

import psycopg
import structlog
from psycopg import sql

from etl import queries
from etl.database.tables import with_digests
from etl.datasets import Dataset, Table
from etl.errors import InternalError, UsageError
from etl.quick_dataclasses import dataclass
from etl.settings import Mode

_SQL = queries.load("losses")

_MOST_ROWS = 10_000
"""Rows of other origin that are looked at before a table counts as too large to judge."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Emptied:
    """The tables of a dataset without the rows that the ledger knows, and those that have rows.

    `runs` loaded `rows` into the first of the emptied tables.
    """

    dataset: Dataset
    tables: tuple[Table, ...]
    kept: tuple[Table, ...]
    runs: int
    rows: int

    @property
    def reason(self) -> str:
        """The loss, in a sentence."""
        names = " and ".join(table.name for table in self.tables)
        holds = "holds" if len(self.tables) == 1 else "hold"
        return (
            f"{names} {holds} none of the {self.rows:,} rows that {self.runs:,} run{'s' if self.runs > 1 else ''}"
            " loaded: emptied by hand, made anew, or restored without data"
        )

    def remedy(self, mode: Mode) -> str:
        """Return the ways out: the rows come back, or the sources are loaded again, or the rows are not missed."""
        again = "load all sources again with --force"
        if self._doubles(mode):
            names = ", ".join(table.quoted for table in self.dataset.tables)
            again = f"truncate {names}, then {again}"
        return (
            f"restore the rows; or {again}, because the first forced load makes the ledger forget the old runs;"
            " or, if the rows were removed on purpose, --allow-empty accepts that and loads no known source again"
        )

    def _doubles(self, mode: Mode) -> bool:
        """Return whether another load of the same sources would double the rows of the other tables."""
        return bool(self.kept) and mode == "append"

    def require_forgettable(self, mode: Mode) -> None:
        """Raise UsageError when the sources cannot simply be loaded again."""
        if self._doubles(mode):
            raise self.refusal(mode)

    def refusal(self, mode: Mode) -> UsageError:
        """Return the error for a load that would take loaded sources for present ones."""
        return UsageError(self.reason, hint=self.remedy(mode))


def look(connection: psycopg.Connection, dataset: Dataset) -> Emptied | None:
    """Return the tables of a dataset that hold no row of the runs of the ledger; None if there is none.

    A merge may remove child rows with the older version of their record. So those of the newest run alone are awaited,
    and with `newest_by` none, because a version of that run may have lost.
    """
    if dataset.deletions and _holds_rows(connection, dataset.deletions[1]):
        return None  # Records may have deleted all rows.
    tables = [
        (place, table)
        for place, table in enumerate(dataset.tables, 1)
        if not table.deletes and _is_emptied(connection, dataset, place)
    ]
    if not tables:
        return None
    values = _names(dataset, tables[0][0])
    runs, rows = connection.execute(_SQL["count_loaded"].format(**values)).fetchone() or (0, 0)
    emptied = [table for _, table in tables]
    others = [table for table in dataset.tables if table not in emptied]
    return Emptied(
        dataset=dataset,
        tables=tuple(emptied),
        kept=tuple(table for table in others if _holds_rows(connection, table)),
        runs=runs,
        rows=rows,
    )


def forget(connection: psycopg.Connection, emptied: Emptied) -> None:
    """Let the runs of a dataset count no more, because their rows are gone: their sources are loaded again."""
    connection.execute(_SQL["forget"].format(**_names(emptied.dataset, 1)))
    table = with_digests(connection, emptied.dataset).digested_table
    if table is not None and table.has_digest:  # A kept row must not pass for a loaded record: its child rows are gone.
        connection.execute(_SQL["forget_digests"].format(table=table.identifier))
    log.warning("runs_forgotten", dataset=emptied.dataset.name, runs=emptied.runs, reason=emptied.reason)


def require_rows(
    connection: psycopg.Connection, targets: Sequence[tuple[Dataset, Mode]], *, force: bool, allow_empty: bool
) -> list[Emptied]:
    """Return the datasets whose runs the load has to forget before it begins: by --force, or for a replace.

    Raises UsageError when rows are missing that the load would take for loaded.
    """
    found = []
    for dataset, mode in targets:
        emptied = look(connection, dataset)
        if emptied is None:
            continue
        if force or mode == "replace":
            if not allow_empty:
                emptied.require_forgettable(mode)
            found.append(emptied)
        elif allow_empty:
            log.warning("rows_missing", dataset=dataset.name, reason=emptied.reason)
        else:
            raise emptied.refusal(mode)
    return found


def _is_emptied(connection: psycopg.Connection, dataset: Dataset, place: int) -> bool:
    table = dataset.tables[place - 1]
    values = _names(dataset, place) | {
        "most": sql.Literal(_MOST_ROWS),
        "may_go": sql.Literal(bool(table.each and dataset.key)),
        "newest_by": sql.Literal(dataset.newest_by is not None),
    }
    row = connection.execute(_SQL["is_emptied"].format(**values)).fetchone()
    if row is None:
        raise InternalError("expected whether a table is emptied, got no row")
    return bool(row[0])


def _holds_rows(connection: psycopg.Connection, table: Table) -> bool:
    row = connection.execute(_SQL["holds_rows"].format(table=table.identifier)).fetchone()
    return bool(row and row[0])


def _names(dataset: Dataset, place: int) -> dict[str, sql.Composable]:
    name = sql.Literal(dataset.name)
    return {
        "table": dataset.tables[place - 1].identifier,
        "place": sql.Literal(place),
        "is_live": _SQL["is_live"].format(dataset=name),
        "since": _SQL["since"].format(fact=sql.Literal(dataset.tables[place - 1].name)),
    }


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """The records of a run in the ledger: those of its batches, those up to its last mark, the refused, the stored."""

    mode: Mode
    is_finished: bool
    records: int
    marked: int
    refused: int
    stored: int

    @property
    def lost(self) -> str:
        """The missing rows, in a sentence; empty if none is missing."""
        if self.is_finished and self.records < self.marked:
            return f"etl.batches has {self.records:,} of its {self.marked:,} records"
        if self.refused != self.stored:
            return f"by etl.batches {self.refused:,} records were refused, and by etl.failures {self.stored:,}"
        return ""


def require_run(connection: psycopg.Connection, dataset: Dataset, run: str) -> None:
    """Raise UsageError when the ledger lacks batches or failures of a run that continues, or is replayed."""
    counts = queries.one_as(_Counts, connection, _SQL["counts_of_run"], {"run": run})
    if counts.lost:
        raise _incomplete(dataset, run, counts.mode, counts.lost)


def require_marks(connection: psycopg.Connection, dataset: Dataset) -> None:
    """Raise UsageError when a source that seems to be new may be that of a run whose marks are missing."""
    row = connection.execute(_SQL["run_without_marks"], {"dataset": dataset.name}).fetchone()
    if row is not None:
        raise _incomplete(dataset, row[0], row[1], "etl.marks has no row of it, so its source is not recognised")


def unknown_rows(connection: psycopg.Connection, dataset: Dataset) -> str | None:
    """Return, in a sentence, that a table has rows of a run that the ledger does not know; None if none was seen.

    An append loads their source again. Only a part of a large table is looked at.
    """
    for table in dataset.tables:
        names = {"table": table.identifier, "name": sql.Literal(table.quoted), "most": sql.Literal(_MOST_ROWS)}
        has_blocks = connection.execute(_SQL["has_blocks"], {"name": table.quoted}).fetchone() == (True,)
        also = _SQL["last_rows"].format(**names) if has_blocks else sql.SQL("")
        row = connection.execute(_SQL["unknown_run"].format(**names, also=also)).fetchone()
        if row is not None:
            return (
                f"{table.name} has rows of run number {row[0]}, which the ledger does not know: rows of etl.runs were"
                " deleted by hand, or these rows were restored without the ledger; their sources would load again"
            )
    return None


def _incomplete(dataset: Dataset, run: str, mode: Mode, lost: str) -> UsageError:
    ways = {
        "append": f"take the run back, and load its source again: etl runs undo {run}",
        "merge": f"take the run back, and load its source again: etl runs undo {run} --delete-rows",
        "replace": f"load its source again: etl load {dataset.name} SOURCE --mode replace --force",
    }
    return UsageError(
        f"the ledger of run {run} is incomplete, rows of it were deleted: {lost}",
        hint=f"restore the ledger; or {ways[mode]}",
    )


def doubled(connection: psycopg.Connection, dataset: Dataset, forced: int, others: Sequence[int], records: int) -> int:
    """Count the records of a source that an append loads once more, because the tables have their rows already.

    `forced` is the number of its run: runs that it superseded hold them, and so do `others` for their first `records`.
    """
    values = {"forced": forced, "others": list(others), "records": records}
    loaded = connection.execute(_SQL["loaded_before"], values).fetchall()
    return next((count for number, count in loaded if has_rows_of(connection, dataset, number)), 0)


def has_rows_of(connection: psycopg.Connection, dataset: Dataset, number: int) -> bool:
    """Return whether the first table of a dataset has a row of a run, given by its number."""
    names = {"table": dataset.tables[0].identifier, "number": sql.Literal(number)}
    row = connection.execute(_SQL["has_rows_of"].format(**names)).fetchone()
    return bool(row and row[0])
