"""The files of the failed store in the ledger: the refused records, their faults, and the state of each file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg

from etl import queries
from etl.errors import UsageError
from etl.ingestion.values import Entry, Failure, StoredRecord
from etl.queries import Conditions
from etl.quick_dataclasses import dataclass

_SQL = queries.load("ledger")
_NO_VALUES = dict.fromkeys(("id", "runs", "dataset", "state", "after_time", "after", "limit"))

State = Literal["pending", "replayed", "discarded", "superseded"]
"""The state of a failure. `superseded`: a later run loaded its source again, or removed what its run had loaded."""


@dataclass(frozen=True, kw_only=True)
class StoredFailure:
    """A row of `etl.failures`: one file of the failed store. `batch` is the offset of the batch that it comes from."""

    id: str
    run: str
    dataset: str
    source: str
    batch: int
    kind: Literal["rejected", "failed"]
    state: State
    created_at: datetime
    attempts: int
    parent: str | None
    note: str | None
    count_records: int
    sqlstate: str | None
    message: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """The dataset, run and id by which the failed store finds the file."""
        return self.dataset, self.run, self.id


@dataclass(frozen=True, kw_only=True)
class SettledFailure:
    """A failure that is not pending any more, and may be removed from the failed store."""

    id: str
    dataset: str
    run: str
    state: State
    count_records: int


def enter(connection: psycopg.Connection, failures: Iterable[Failure]) -> None:
    """Enter files of the failed store, and count the faults of their records."""
    for failure in failures:
        columns = {name: value for name, value in vars(failure).items() if name not in {"records", "lines"}}
        connection.execute(_SQL["enter_failure"], columns | {"count": len(failure.records)})
        connection.execute(_SQL["enter_faults"], {"id": failure.id} | _fault_columns(failure.records))


def _fault_columns(records: Iterable[StoredRecord]) -> dict[str, list[Any]]:
    """Return the faults of records as columns, with the number of records and the first record of each fault."""
    counts: Counter[tuple[str, str | None, str | None, str]] = Counter()
    first: dict[tuple[str, str | None, str | None, str], StoredRecord] = {}
    for record in records:
        fault = (record.sqlstate, record.table, record.column, record.reason)
        counts[fault] += 1
        first.setdefault(fault, record)
    return {
        "sqlstates": [fault[0] for fault in counts],
        "tables": [fault[1] for fault in counts],
        "columns": [fault[2] for fault in counts],
        "reasons": [fault[3] for fault in counts],
        "counts": list(counts.values()),
        "first_records": [first[fault].record for fault in counts],
        "first_offsets": [first[fault].offset for fault in counts],
    }


def find(
    connection: psycopg.Connection,
    *,
    id: str | None = None,
    run: str | None = None,
    runs: Sequence[str] = (),
    dataset: str | None = None,
    state: State | None = None,
) -> list[StoredFailure]:
    """Return the failures that match all given values, in the order of their creation; `runs`: those of any of them."""
    of_runs = [run] if run else list(runs) or None
    return _listed(connection, {"id": id, "runs": of_runs, "dataset": dataset, "state": state}, Conditions())


def page(
    connection: psycopg.Connection, conditions: Conditions, after: tuple[str, str] | None, limit: int
) -> list[StoredFailure]:
    """Return the first failures that match, in the order of their creation, after the one with this time and id."""
    time, name = after or (None, None)
    return _listed(connection, {"after_time": time, "after": name, "limit": limit}, conditions)


def _listed(
    connection: psycopg.Connection, values: Mapping[str, object], conditions: Conditions
) -> list[StoredFailure]:
    statement = _SQL["failures_list"].format(conditions=conditions.text)
    return queries.rows_as(StoredFailure, connection, statement, {**_NO_VALUES, **values, **conditions.values})


def named(connection: psycopg.Connection, id: str) -> StoredFailure:
    """Return the failure with this id.

    Raises UsageError when there is none.
    """
    for failure in find(connection, id=id):
        return failure
    raise UsageError(f"nothing in the failed store is called {id}", hint="etl failed list --all")


def ids_of(connection: psycopg.Connection, run: str) -> set[str]:
    """Return the ids of all failures of a run."""
    return {failure.id for failure in find(connection, run=run)}


def rest_of(connection: psycopg.Connection, id: str) -> list[str]:
    """Return the pending failures that keep what replays of this failure were refused, the oldest first."""
    return [name for (name,) in connection.execute(_SQL["rest_of_failure"], {"id": id})]


def settled(connection: psycopg.Connection, age: timedelta, dataset: str | None) -> list[SettledFailure]:
    """Return the failures of at least this age that are not pending any more, the oldest first."""
    return queries.rows_as(SettledFailure, connection, _SQL["settled_failures"], {"age": age, "dataset": dataset})


def claim_replay(connection: psycopg.Connection, id: str) -> bool:
    """Claim a failure before its records are sent; False when it is not pending any more."""
    return connection.execute(_SQL["claim_replay"], {"id": id}).rowcount == 1


def enter_replay(
    connection: psycopg.Connection, failure: StoredFailure, entry: Entry, failures: Iterable[Failure]
) -> None:
    """Enter the result of a replay: the counts of the batch move from refused to loaded.

    `failures` keep the records that were refused again.
    """
    before = {"rejected": 0, "failed": 0} | {failure.kind: failure.count_records}
    values = vars(entry) | {"rows": list(entry.rows), "run": failure.run, "offset": failure.batch}
    connection.execute(
        _SQL["enter_replay"], values | {"was_rejected": before["rejected"], "was_failed": before["failed"]}
    )
    enter(connection, failures)


def discard(connection: psycopg.Connection, id: str, reason: str) -> bool:
    """Note that a failure will never be replayed, and why; False when it is not pending."""
    return connection.execute(_SQL["discard"], {"id": id, "note": reason}).rowcount == 1
