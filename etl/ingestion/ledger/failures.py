"""The files of the failed store in the ledger: what was refused, what is wrong with it, what became of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import psycopg

from etl import queries
from etl.ingestion.values import Entry, Failure

_SQL = queries.load("ledger")


def enter(connection: psycopg.Connection, failures: Iterable[Failure]) -> None:
    """Enter files of the failed store, and what is wrong with their records."""
    for failure in failures:
        told = {key: value for key, value in vars(failure).items() if key not in {"records", "lines"}}
        connection.execute(_SQL["enter_failure"], told | {"count": len(failure.records)})
        connection.execute(_SQL["enter_faults"], {"id": failure.id} | _faults(failure))


def _faults(failure: Failure) -> dict[str, list[Any]]:
    """Return what is wrong with the records of a failure, counted by kind, as columns."""
    counts: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in failure.records:
        kind = (record["sqlstate"], record["table"], record["column"], record["reason"])
        counts[kind] += 1
        first.setdefault(kind, record)
    return {
        "sqlstates": [kind[0] for kind in counts],
        "tables": [kind[1] for kind in counts],
        "columns": [kind[2] for kind in counts],
        "reasons": [kind[3] for kind in counts],
        "counts": list(counts.values()),
        "first_records": [first[kind]["record"] for kind in counts],
        "first_offsets": [first[kind]["offset"] for kind in counts],
    }


def find(
    connection: psycopg.Connection,
    *,
    id: str | None = None,
    run: str | None = None,
    dataset: str | None = None,
    state: str | None = None,
) -> list[dict[str, Any]]:
    """List the files of the failed store that match, the newest last."""
    return queries.rows(connection, _SQL["failures_list"], {"id": id, "run": run, "dataset": dataset, "state": state})


def ids_of(connection: psycopg.Connection, run: str) -> set[str]:
    """List the ids of the failures that the ledger knows of a run."""
    return {row["id"] for row in find(connection, run=run)}


def settled(connection: psycopg.Connection, age: timedelta, dataset: str | None) -> list[dict[str, Any]]:
    """List the failures of at least this age that wait no more, the oldest first."""
    return queries.rows(connection, _SQL["settled_failures"], {"age": age, "dataset": dataset})


def claim_replay(connection: psycopg.Connection, id: str) -> bool:
    """Claim a failure before its records are sent; False when it waits no more."""
    return connection.execute(_SQL["claim_replay"], {"id": id}).rowcount == 1


def enter_replay(
    connection: psycopg.Connection, replayed: Mapping[str, Any], entry: Entry, failures: Iterable[Failure]
) -> None:
    """Enter what became of the records of a failure: the batch's counts move from refused to loaded."""
    was = {"rejected": 0, "failed": 0} | {replayed["kind"]: replayed["count_records"]}
    values = vars(entry) | {"rows": list(entry.rows), "run": replayed["run"], "offset": replayed["batch"]}
    connection.execute(_SQL["enter_replay"], values | {"was_rejected": was["rejected"], "was_failed": was["failed"]})
    enter(connection, failures)


def discard(connection: psycopg.Connection, id: str, reason: str) -> bool:
    """Note that a failure will never be replayed, and why; False when it does not wait."""
    return connection.execute(_SQL["discard"], {"id": id, "note": reason}).rowcount == 1
