"""Checks of everything that a load needs of a database and its server, before a load. Changes nothing."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from etl import datasets, queries
from etl.database import connecting, migrations, obstacles, sessions, tables
from etl.database.connecting import Database
from etl.database.obstacles import Obstacle
from etl.database.pooling import Pooling
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.ingestion.ledger import losses
from etl.precalculation import catalogue, installation, refresh, verify

State = Literal["ok", "warn", "fail"]

_SQL = queries.load("preflight")

_GIB = 1 << 30

_LEAST_FREE_BYTES = 1 * _GIB
_ENOUGH_FREE_BYTES = 10 * _GIB

_LONGEST_COMPARISON = "30s"
"""The longest time of a comparison of one aggregate with facts that have partitions."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. If it is not "ok" it has a remedy. With "fail", a load ends with exit code 2 or 4."""

    what: str
    state: State
    found: str
    remedy: str = ""


def inspect(target: Database, config_dir: Path, folder: Path | None, sessions: int) -> Iterator[Finding]:
    """Yield the results of all checks, those of the server first.

    `folder` is the folder of an embedded server, `sessions` the number of sessions that a load opens. Raises UsageError
    or DatabaseError when the database cannot be reached.
    """
    connection, way = connecting.connect_to_inspect(target)
    with connection:
        server = list(_server(connection, target, way))
        yield from server
        if any(finding.state == "fail" for finding in server):
            return  # The other checks may fail for the same reason.
        yield from _settings(connection)
        yield _room(connection, sessions)
        if folder is not None:
            yield _disk(folder)
        yield from _contents(connection, config_dir)


def _finding(what: str, *, is_right: bool, found: str, remedy: str, otherwise: State = "fail") -> Finding:
    if is_right:
        return Finding(what=what, state="ok", found=found)
    return Finding(what=what, state=otherwise, found=found, remedy=remedy)


def _server(connection: psycopg.Connection, target: Database, way: Pooling) -> Iterator[Finding]:
    major = connection.info.server_version // 10000
    yield _finding(
        "server",
        is_right=major >= 16,
        found=f"{target.name}, PostgreSQL {major}",
        remedy="use PostgreSQL 16 or later",
    )
    facts = queries.one(connection, _SQL["server_facts"])
    yield _finding(
        "connection",
        is_right=way != "transaction",
        found={
            "none": "a session of its own",
            "session": "by a pooler, a session of its own",
            "transaction": "by a pooler that can give each transaction another session",
        }[way],
        remedy="name the server itself, or a pool with pool_mode = session",
    )
    yield _finding(
        "writing",
        is_right=not facts["is_read_only"],
        found="the server is a standby or read-only" if facts["is_read_only"] else "the server takes writes",
        remedy="name the primary server (target_session_attrs=read-write)",
    )
    yield _finding(
        "default_transaction_read_only",
        is_right=not facts["is_read_only_by_default"],
        found="on, and loads write all the same" if facts["is_read_only_by_default"] else "off",
        remedy=f"to stop loads, revoke etl_loader from {facts['user_name']}",
        otherwise="warn",
    )
    yield from _session(connection, facts)


def _session(connection: psycopg.Connection, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the encoding, and what a session of this role may do."""
    yield _finding(
        "encoding",
        is_right=facts["encoding"] == "UTF8",
        found=facts["encoding"],
        remedy="create database NAME encoding 'UTF8' template template0",
    )
    role = sessions.replication_role(connection)
    yield _finding(
        "session_replication_role",
        is_right=role != "replica",
        found=role,
        remedy=f"alter role {facts['user_name']} reset session_replication_role: no trigger notes changes",
    )
    yield _finding(
        "temporary tables",
        is_right=facts["may_make_temporary"],
        found=f"{facts['user_name']} {'may' if facts['may_make_temporary'] else 'may not'} make them",
        remedy=f"grant temporary on database {facts['database_name']} to {facts['user_name']}",
    )
    if _is_remote(connection):
        yield _finding(
            "encryption",
            is_right=bool(connection.pgconn.ssl_in_use),
            found="TLS" if connection.pgconn.ssl_in_use else "none, over the network",
            remedy="sslmode=verify-full in the address, or PGSSLMODE",
            otherwise="warn",
        )


def _is_remote(connection: psycopg.Connection) -> bool:
    host = connection.info.host
    return not (host.startswith(("/", "127.")) or host in {"", "localhost", "::1"})


# Settings of the server: (name, whether a value is right, remedy). Sizes are bytes, times are seconds.
_EXPECTED: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("fsync", bool, "on: without it a crash of the machine may destroy the database"),
    ("full_page_writes", bool, "on: without it a crash of the machine may destroy the database"),
    ("autovacuum", bool, "on: merges leave dead rows"),
    ("max_wal_size", lambda size: size >= 4 * _GIB, "4GB or more: else checkpoints slow loads down"),
    ("checkpoint_timeout", lambda seconds: seconds >= 300, "5min or more: else checkpoints slow loads down"),
    ("shared_buffers", lambda size: size >= _GIB / 8, "a quarter of the memory, and 128MB at least"),
)


def _settings(connection: psycopg.Connection) -> Iterator[Finding]:
    settings = {name: (value, written) for name, value, written in connection.execute(_SQL["settings"])}
    for name, is_right, remedy in _EXPECTED:
        if name in settings:  # transaction_timeout came with PostgreSQL 17
            value, written = settings[name]
            yield _finding(name, is_right=is_right(value), found=written, remedy=remedy, otherwise="warn")
    synchronous = settings["synchronous_commit"][1]
    yield _finding(
        "synchronous_commit",
        is_right=synchronous != "off",
        found=synchronous,
        remedy="on: a crash may lose a run that was reported as loaded",
        otherwise="warn",
    )


def _room(connection: psycopg.Connection, sessions: int) -> Finding:
    row = connection.execute(_SQL["room_for_connections"]).fetchone()
    room = row[0] if row else 0
    return _finding(
        "connections",
        is_right=room >= sessions,
        found=f"room for {room:,} more; a load by default takes {sessions}",
        remedy="raise max_connections or the limit of the role, or use fewer --workers",
        otherwise="warn" if room > 1 else "fail",
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    return _finding(
        "disk",
        is_right=free >= _ENOUGH_FREE_BYTES,
        found=f"{free / _GIB:,.1f} GiB free for {folder}",
        remedy="free disk space: tables need about twice the bytes of a plain source",
        otherwise="warn" if free >= _LEAST_FREE_BYTES else "fail",
    )


def _contents(connection: psycopg.Connection, config_dir: Path) -> Iterator[Finding]:
    """Check what `db migrate` makes: the ledger, the tables, the triggers, and the rights on them."""
    try:
        migrations.require_migrated(connection)
    except UsageError as error:
        yield _refused("migrations", error)
        return
    yield Finding(what="migrations", state="ok", found=f"at {migrations.latest_migration()}")
    missing = [right for (right,) in connection.execute(_SQL["ledger_rights"])]
    yield _finding(
        "ledger",
        is_right=not missing,
        found=f"{connection.info.user} lacks {', '.join(missing)}" if missing else "can be written",
        remedy=f"grant etl_loader to {connection.info.user}",
    )
    with_tables = set(datasets.default_names(config_dir))
    valid, wrong = datasets.look(config_dir)
    chosen = [dataset for dataset in valid if dataset.name in with_tables]
    yield _row_security(connection, chosen, config_dir)
    yield from (_refused("definition", each) for each in wrong)
    yield from _datasets(connection, chosen, config_dir)
    for obstacle in obstacles.unidentified(connection, [], ["etl", "etl_staging", "analytics"]):
        yield _obstacle("publications", obstacle)
    for fact in installation.unwatched(connection):
        yield Finding(
            what=f"triggers of {fact}",
            state="fail",
            found="its changes are not noted for the aggregates",
            remedy="etl db migrate",
        )
    yield from _divided(connection, config_dir)


def _divided(connection: psycopg.Connection, config_dir: Path) -> Iterator[Finding]:
    """Compare the aggregates of facts with partitions, because the triggers do not see each change of these facts."""
    for fact, names in installation.divided(connection):
        for name in names:
            what = f"aggregate {name}"
            past = f"changes of {fact} by the name of a partition are not noted"
            try:
                [aggregate] = catalogue.choose([name], config_dir)
                connection.execute(_SQL["limit_comparison"], {"timeout": _LONGEST_COMPARISON})
                found = verify.verify(connection, aggregate)
            except UsageError as error:
                yield Finding(what=what, state="warn", found=f"not compared: {error}", remedy=error.hint or "")
            except psycopg.errors.QueryCanceled:
                remedy = f"etl precalculate --verify {name} compares it"
                yield Finding(what=what, state="warn", found=f"not compared: it takes long; {past}", remedy=remedy)
            else:
                yield _finding(
                    what,
                    is_right=not found.differences,
                    found=f"{found.differences:,} rows differ from the facts: {past}"
                    if found.differences
                    else "equals its facts, pending buckets aside",
                    remedy=f"etl precalculate --full {name}",
                    otherwise="warn",
                )
            finally:
                connection.execute(_SQL["end_comparison"])


def _datasets(connection: psycopg.Connection, chosen: Sequence[Dataset], config_dir: Path) -> Iterator[Finding]:
    """Check the files of aggregates, and the tables of the datasets."""
    for each in catalogue.look(config_dir)[1].values():
        yield Finding(what="aggregate", state="warn", found=str(each), remedy="correct the file, then etl db migrate")
    for dataset in chosen:
        try:
            tables.require_tables(connection, dataset)
            if dataset.mode == "merge":
                tables.require_key(connection, dataset)
            in_the_way = list(obstacles.of_dataset(connection, dataset, dataset.mode))
            unknown = None
            with suppress(psycopg.errors.InsufficientPrivilege):  # The check of the ledger reports it.
                if (missing := losses.look(connection, dataset)) is not None:
                    raise missing.refusal(dataset.mode)
                unknown = losses.unknown_rows(connection, dataset)
        except UsageError as error:
            yield _refused(f"dataset {dataset.name}", error)
            continue
        if unknown is not None:
            yield Finding(
                what=f"dataset {dataset.name}",
                state="warn",
                found=unknown,
                remedy="restore the ledger; or delete these rows, then load their sources again",
            )
        elif not in_the_way:
            yield Finding(what=f"dataset {dataset.name}", state="ok", found="its tables exist and can be loaded")
        for obstacle in in_the_way:
            yield _obstacle(f"dataset {dataset.name}", obstacle)


def _obstacle(what: str, obstacle: Obstacle) -> Finding:
    return Finding(
        what=what,
        state="fail" if obstacle.is_certain else "warn",
        found=f"{obstacle.table}: {obstacle.found}",
        remedy=obstacle.remedy,
    )


def _row_security(connection: psycopg.Connection, chosen: Sequence[Dataset], config_dir: Path) -> Finding:
    loaded = {table.quoted for dataset in chosen for table in dataset.tables}
    names = tables.hidden(connection, loaded | refresh.tables_of(catalogue.look(config_dir)[0]))
    return _finding(
        "row-level security",
        is_right=not names,
        found=f"it hides rows of {', '.join(names)}" if names else "it hides no rows",
        remedy=tables.see_all_rows(connection.info.user),
    )


def _refused(what: str, error: UsageError) -> Finding:
    return Finding(what=what, state="fail", found=str(error), remedy=error.hint or "")
