"""A run is taken back: its rows are deleted, and its source is not known any more, in one transaction.

Rows are found by their lineage. Tables with history show the versions before the run again. What nobody can restore is
refused: a published replace, and the rows that a merge has written over in other tables.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg

from etl import datasets
from etl.database.connecting import Database, Session, connect
from etl.database.sessions import require_usable
from etl.database.tables import with_digests
from etl.datasets import Dataset
from etl.datasets.histories import identifier_of
from etl.errors import UsageError
from etl.ingestion.destination import merging
from etl.ingestion.ledger import history, locks, putting_back, undoing
from etl.ingestion.ledger.history import RunFilter
from etl.ingestion.ledger.putting_back import Change
from etl.ingestion.ledger.undoing import RunToUndo
from etl.ingestion.pipeline.job import Stop
from etl.ingestion.pipeline.refreshing import APPLICATION_NAME, precalculate
from etl.precalculation.refresh import RefreshResult
from etl.quick_dataclasses import dataclass
from etl.settings import Mode, RetrySettings


@dataclass(frozen=True, kw_only=True)
class UndoRequest:
    """Which run to take back: its name, or `latest`.

    `deletes_merged`: also a merge that may have written over rows of other runs.
    """

    run: str
    deletes_merged: bool = False
    is_dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """The rows of the run in a table, and all rows of the table before and after the undo."""

    table: str
    rows_deleted: int
    rows_before: int
    rows_after: int


@dataclass(frozen=True, kw_only=True)
class UndoResult:
    """A run that was taken back, now or before, or would be.

    `rows_loaded` are the rows that it loaded into the first table by the ledger; `rows_written_over` of them may have
    taken the place of rows of other runs, which are gone, and so are the rows of the `keys_deleted`. `superseded`
    counts the records that waited of the run; `rows_restored` are the rows of each table that histories gave back;
    `restored` are the runs of its source that count again, because it had taken their place by --force.
    """

    run: str
    dataset: str
    source: str
    mode: Mode
    status: Literal["undone", "already_undone", "would_be_undone"]
    undone_at: datetime | None = None
    rows_loaded: int = 0
    rows_written_over: int = 0
    keys_deleted: int = 0
    tables: tuple[TableChange, ...] = ()
    rows_restored: dict[str, int] = field(default_factory=dict)
    superseded: int = 0
    restored: tuple[str, ...] = ()


def undo(
    request: UndoRequest, database: Database, config_dir: Path, *, precalculates: bool = True
) -> Iterator[UndoResult | RefreshResult]:
    """Take a run back, then precalculate, also after an earlier undo of it; yield each result when it is there.

    Raises UsageError when there is no such run, or it cannot be taken back, BusyError when a load or a replay holds its
    dataset, DatabaseError as `precalculate` does.
    """
    with connect(database, "etl:undo") as connection:
        require_usable(connection)
        run = undoing.named(connection, history.name_of(connection, request.run))
        request = replace(request, run=run.run)
        dataset = with_digests(connection, _definition_of(run, config_dir))
        result = _count(connection, dataset, request) if request.is_dry_run else _undo(connection, dataset, request)
    yield result
    if precalculates and not request.is_dry_run:
        tables = [table.name for table in dataset.tables]
        yield from precalculate(
            Session(database, APPLICATION_NAME), config_dir, tables, run.run, Stop(), RetrySettings()
        )


def _definition_of(run: RunToUndo, config_dir: Path) -> Dataset:
    """Return the definition of the dataset of a run.

    Raises UsageError when it is missing, or has fewer tables than the run has filled.
    """
    dataset = datasets.find(run.dataset, config_dir)
    if run.tables > len(dataset.tables):
        raise UsageError(
            f"run {run.run} has loaded {run.tables} tables, and {dataset.path} defines {len(dataset.tables)}",
            hint="name the folder of the definition by which it was loaded: --config-dir",
        )
    return dataset


def _count(connection: psycopg.Connection, dataset: Dataset, request: UndoRequest) -> UndoResult:
    """Return the rows that an undo would delete now. Nothing is locked, because a dry run hinders no load."""
    with connection.transaction():
        undoing.look(connection)
        run = undoing.named(connection, request.run)
        if run.undone_at is not None:
            return _already(run)
        _require_seen(connection, run, dataset, request)
        if putting_back.is_possible(connection, dataset, run):
            return _counted(connection, dataset, run)
        written_over = _require_undoable(connection, run, dataset, request)
        counts = [undoing.count_rows(connection, table, run.number) for table in dataset.tables]
        kept = undoing.count_seen(connection, dataset, run.number)
        changes = [
            TableChange(
                table=table.name,
                rows_deleted=rows.own_rows - seen,
                rows_before=rows.all_rows,
                rows_after=rows.all_rows - rows.own_rows + seen,
            )
            for table, rows, seen in zip(dataset.tables, counts, kept, strict=True)
        ]
        return UndoResult(
            **_facts_of(run),
            status="would_be_undone",
            rows_written_over=written_over,
            keys_deleted=run.keys_deleted,
            tables=tuple(changes),
            superseded=undoing.waiting(connection, run.run).records,
        )


def _counted(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> UndoResult:
    """Return what an undo would do to tables with history."""
    changes = putting_back.count(connection, dataset, run)
    before = [undoing.count_rows(connection, table, run.number).all_rows for table in dataset.tables]
    return UndoResult(
        **_facts_of(run),
        status="would_be_undone",
        tables=_table_changes(dataset, changes, before),
        rows_restored=_restored(dataset, changes),
        superseded=undoing.waiting(connection, run.run).records,
    )


def _restored(dataset: Dataset, changes: Sequence[Change]) -> dict[str, int]:
    return {table.name: each.restored for table, each in zip(dataset.tables, changes, strict=True) if each.restored}


def _table_changes(dataset: Dataset, changes: Sequence[Change], before: Sequence[int]) -> tuple[TableChange, ...]:
    return tuple(
        TableChange(
            table=table.name,
            rows_deleted=change.deleted,
            rows_before=rows,
            rows_after=rows - change.deleted + change.restored,
        )
        for table, change, rows in zip(dataset.tables, changes, before, strict=True)
    )


def _undo(connection: psycopg.Connection, dataset: Dataset, request: UndoRequest) -> UndoResult:
    """Lock the dataset and the run, and take the run back."""
    # As a replace does: a load into the dataset at the same time might write over rows of the run.
    locks.hold_dataset(connection, dataset.name, "replace")
    locks.hold_run(connection, request.run)
    try:
        with connection.transaction():
            return _take_back(connection, dataset, request)
    except psycopg.errors.ForeignKeyViolation as error:
        raise UsageError(
            f"rows of {error.diag.schema_name}.{error.diag.table_name} refer to rows of run {request.run},"
            f" by the foreign key {error.diag.constraint_name}",
            hint="take back the runs that loaded these rows before",
        ) from error
    except psycopg.errors.NotNullViolation as error:
        raise UsageError(
            f"the versions before run {request.run} have no value for the column {error.diag.column_name} of"
            f" {error.diag.schema_name}.{error.diag.table_name}, which refuses null",
            hint=f"give it a default (alter table ... alter column {error.diag.column_name} set default ...): the rows"
            " that come back get this value",
        ) from error


def _take_back(connection: psycopg.Connection, dataset: Dataset, request: UndoRequest) -> UndoResult:
    run = undoing.named(connection, request.run)
    if run.undone_at is not None:
        return _already(run)
    _require_seen(connection, run, dataset, request)
    if gives_back := putting_back.is_possible(connection, dataset, run):
        putting_back.prepare(connection, dataset, run)
    undoing.keep_seen(connection, dataset, run.number)
    if gives_back:
        written_over, (changes, rows_restored) = 0, _put_back(connection, run, dataset)
    else:
        written_over = _require_undoable(connection, run, dataset, request)
        changes, rows_restored = _delete(connection, run, dataset), {}
    undoing.drop_staging(connection, run.run)
    adds_only = run.mode == "append" or not run.is_visible
    restored = undoing.restore_earlier(connection, dataset, run.run) if adds_only else []
    superseded = undoing.supersede_failures(connection, run.run)
    undone_at = undoing.note(connection, run.run, [change.rows_deleted for change in changes])
    return UndoResult(
        **_facts_of(run),
        status="undone",
        undone_at=undone_at,
        rows_written_over=written_over,
        keys_deleted=0 if gives_back else run.keys_deleted,
        tables=tuple(changes),
        rows_restored=rows_restored,
        superseded=superseded.records,
        restored=tuple(restored),
    )


def _put_back(
    connection: psycopg.Connection, run: RunToUndo, dataset: Dataset
) -> tuple[Sequence[TableChange], dict[str, int]]:
    """Show the versions before a run again, and return how many rows that are.

    Raises UsageError when a trigger or a rule keeps some of its rows.
    """
    before = [undoing.count_rows(connection, table, run.number).all_rows for table in dataset.tables]
    expected = putting_back.count(connection, dataset, run)
    with _firsts_kept(connection, dataset, run):
        changes = putting_back.take_back(connection, dataset, run)
    for table, change, wanted in zip(dataset.tables, changes, expected, strict=True):
        if change != wanted:
            raise _kept_by_server(run, table.name, abs(wanted.deleted - change.deleted) or wanted.restored)
    return _table_changes(dataset, changes, before), _restored(dataset, changes)


@contextmanager
def _firsts_kept(connection: psycopg.Connection, dataset: Dataset, run: RunToUndo) -> Iterator[None]:
    """Find the first values again after versions were put back: in the rows that went, and in the histories."""
    tables = [
        (number, table)
        for number, table in enumerate(dataset.tables)
        if table.history and any(column.keep_first for column in table.columns)
    ]
    known = [undoing.note_firsts(connection, dataset, table, run.number) for _, table in tables]
    yield
    undoing.forget_firsts(connection, dataset, run.number)
    for (number, table), firsts in zip(tables, known, strict=True):
        for source in (firsts, identifier_of(table)):
            sources = [source if each is table else each.identifier for each in dataset.tables]
            for statement in merging.keep_firsts(dataset, sources):
                if statement.table == number:
                    connection.execute(statement.text)


def _kept_by_server(run: RunToUndo, table: str, rows: int) -> UsageError:
    return UsageError(
        f"the server kept {rows:,} rows of run {run.run} in {table} without an error:"
        " a trigger before each row, or a rule, keeps them; nothing was deleted",
        hint=f"disable it for the undo (\\d {table} in `etl db psql` shows triggers and rules)",
    )


def _delete(connection: psycopg.Connection, run: RunToUndo, dataset: Dataset) -> list[TableChange]:
    """Delete the rows of a run from each table, the child tables first.

    Raises UsageError when a trigger or a rule keeps some of them.
    """
    before = [undoing.count_rows(connection, table, run.number) for table in dataset.tables]
    deleted = {table.name: undoing.delete_rows(connection, table, run.number) for table in reversed(dataset.tables)}
    undoing.forget_firsts(connection, dataset, run.number)
    after = [undoing.count_rows(connection, table, run.number) for table in dataset.tables]
    for table, rows in zip(dataset.tables, after, strict=True):
        if rows.own_rows:
            raise _kept_by_server(run, table.name, rows.own_rows)
    return [
        TableChange(
            table=table.name, rows_deleted=deleted[table.name], rows_before=old.all_rows, rows_after=new.all_rows
        )
        for table, old, new in zip(dataset.tables, before, after, strict=True)
    ]


def _require_undoable(connection: psycopg.Connection, run: RunToUndo, dataset: Dataset, request: UndoRequest) -> int:
    """Return how many rows of other runs the run may have written over, at most.

    Raises UsageError when nobody can restore what was there before the run.
    """
    if not run.is_visible:
        return 0
    if run.replaced_by is not None:
        raise UsageError(
            f"run {run.replaced_by} has replaced the rows of run {run.run}: the rows that are the same in both are now"
            f" rows of {run.replaced_by}",
            hint=f"etl runs show {run.replaced_by}",
        )
    if run.mode == "replace":
        raise _replace_refused(connection, run)
    if run.mode != "merge":
        return 0
    table = dataset.tables[0]
    own = undoing.count_rows(connection, table, run.number).own_rows
    # A row that the ledger does not know was not counted either: it has lost batches.
    uncounted = run.rows_uncounted + max(0, own - run.rows_loaded - run.unchanged)
    if uncounted:
        uncounted = min(uncounted, undoing.missing_of_others(connection, dataset, run.number))
    written_over = run.rows_replaced + uncounted
    if not (written_over or run.keys_deleted) or request.deletes_merged:
        return written_over
    lost = [f"has written over up to {written_over:,} older versions"] if written_over else []
    lost += [f"its records have deleted up to {run.keys_deleted:,} rows"] if run.keys_deleted else []
    raise UsageError(
        f"run {run.run} has merged {run.rows_loaded:,} rows into {table.name}, and {' and '.join(lost)}, which nobody"
        " can restore",
        hint=f"--delete-rows deletes the {own:,} rows that this run wrote last; then load the sources with the older"
        f" versions again by --force (etl runs list --dataset {run.dataset})",
    )


def _require_seen(connection: psycopg.Connection, run: RunToUndo, dataset: Dataset, request: UndoRequest) -> None:
    """Raise UsageError when the ledger has forgotten which rows of the run later runs found unchanged."""
    if request.deletes_merged or not undoing.lacks_seen(connection, dataset, run.number):
        return
    own = undoing.count_rows(connection, dataset.tables[0], run.number).own_rows
    if own:
        raise UsageError(
            f"runs after run {run.run} have found rows of it unchanged, and the ledger does not know any more which:"
            f" to delete its {own:,} rows may delete rows of these runs, too",
            hint="--delete-rows deletes them; then load the newest source again by --force"
            f" (etl runs list --dataset {run.dataset})",
        )


def _replace_refused(connection: psycopg.Connection, run: RunToUndo) -> UsageError:
    before = undoing.replace_before(connection, run.run)
    if before is None:
        hint = f"load a file with all records that belong there: etl load {run.dataset} FILE --mode replace"
    else:
        here = Path.cwd()
        [row] = history.runs(connection, RunFilter(run=before), here)
        hint = f"load the export before again: {history.load_command(row, here)}"
    return UsageError(f"run {run.run} is a replace: the rows that were there before it are gone", hint=hint)


def _already(run: RunToUndo) -> UndoResult:
    return UndoResult(**_facts_of(run), status="already_undone", undone_at=run.undone_at)


def _facts_of(run: RunToUndo) -> dict[str, Any]:
    return {name: getattr(run, name) for name in ("run", "dataset", "source", "mode", "rows_loaded")}
