"""`etl.failed` and `etl.runs`, which only look."""

import os
from datetime import datetime
from pathlib import Path
from typing import get_args

import psycopg

from etl.database.connecting import connect
from etl.errors import UsageError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger import failures, history
from etl.ingestion.ledger import runs as ledger_runs
from etl.ingestion.ledger.failures import StoredFailure
from etl.ingestion.ledger.history import RunFilter, RunStatus
from etl.library.arguments import require_kinds
from etl.library.opening import opened
from etl.library.results import FailedFile, FailedRecord, Failures, Runs
from etl.settings import folder_or_url


def failed(
    *,
    run: str | None = None,
    dataset: str | None = None,
    all: bool = False,
    content: bool = False,
    failed_dir: str | Path = "failed",
    database: str | None = None,
    config_dir: str | Path = "config",
) -> Failures:
    """Return the pending files of the failed store, with the place of each record and why it was refused.

    With `all` also those that were replayed, discarded or superseded; with `content` also the keys and texts of the
    records. `run` may be `latest`. Raises EtlError.
    """
    texts = {"run": run, "dataset": dataset, "database": database}
    require_kinds(texts=texts, paths={"failed_dir": failed_dir, "config_dir": config_dir})
    with (
        opened(database, Path(config_dir), creates=False) as target,
        connect(target) as connection,
        FailedStore(folder_or_url(os.fspath(failed_dir))) as store,
    ):
        store.belong_to(ledger_runs.database_id(connection))
        found = _failures(connection, run, dataset, all=all)
        return Failures(_file(failure, store, content=content) for failure in found)


def _failures(
    connection: psycopg.Connection, run: str | None, dataset: str | None, *, all: bool
) -> list[StoredFailure]:
    named = None if run is None else history.name_of(connection, run)
    return failures.find(connection, run=named, dataset=dataset, state=None if all else "pending")


def _file(failure: StoredFailure, store: FailedStore, *, content: bool) -> FailedFile:
    records: tuple[FailedRecord, ...] = ()
    missing = None
    path = store.path(*failure.key)
    try:
        records = _records(failure, store, content=content)
    except UsageError as error:  # Purged, or the folder is another one; the others are still listed.
        missing = str(error)
    return FailedFile(
        id=failure.id,
        run=failure.run,
        dataset=failure.dataset,
        source=failure.source,
        kind=failure.kind,
        state=failure.state,
        created_at=failure.created_at,
        attempts=failure.attempts,
        count=failure.count_records,
        path=path if isinstance(path, Path) else str(path),
        records=records,
        missing=missing,
    )


def _records(failure: StoredFailure, store: FailedStore, *, content: bool) -> tuple[FailedRecord, ...]:
    details = store.details(*failure.key)
    lines = store.content(*failure.key).splitlines() if content else []
    texts = [line.decode("utf-8", errors="replace") for line in lines[: len(details.records)]]
    texts += [""] * (len(details.records) - len(texts))  # Somebody removed lines.
    return tuple(
        FailedRecord(
            record=record.record,
            offset=record.offset,
            table=record.table,
            column=record.column,
            sqlstate=record.sqlstate,
            reason=record.reason,
            key=record.key if content else None,
            text=text if content else None,
        )
        for record, text in zip(details.records, texts, strict=True)
    )


def runs(
    *,
    run: str | None = None,
    dataset: str | None = None,
    status: RunStatus | None = None,
    since: datetime | None = None,
    limit: int = 20,
    database: str | None = None,
    config_dir: str | Path = "config",
) -> Runs:
    """Return the newest runs as `etl runs list` does, each with its counts and the command that comes next.

    `run` may be `latest`. Raises EtlError.
    """
    texts = {"run": run, "dataset": dataset, "status": status, "database": database}
    require_kinds(texts=texts, paths={"config_dir": config_dir})
    if status is not None and status not in get_args(RunStatus):
        raise UsageError(f"status: expected one of {', '.join(get_args(RunStatus))}")
    if limit < 1:
        raise UsageError("limit: expected a number of runs, at least 1")
    if since is not None and since.tzinfo is None:
        raise UsageError("since: expected a time with its zone", hint="datetime.now(UTC) - timedelta(days=7)")
    with opened(database, Path(config_dir), creates=False) as target, connect(target) as connection:
        named = None if run is None else history.name_of(connection, run)
        wanted = RunFilter(run=named, dataset=dataset, status=status, since=since, limit=limit)
        return Runs(history.runs(connection, wanted, Path.cwd()))
