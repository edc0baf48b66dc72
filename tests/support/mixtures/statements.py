"""What a database administrator does beside the loads of a mixture, by name."""

from typing import LiteralString

# Each statement is run in autocommit mode, in a session of its own.
STATEMENTS: dict[str, tuple[LiteralString, ...]] = {
    "set a default": ("alter table {table} alter column pieces set default 5",),
    "drop a default": ("alter table {table} alter column pieces drop default",),
    "set statistics": ("alter table {table} alter column pieces set statistics 50",),
    "add a column": ("alter table {table} add column if not exists {name} text",),
    "add a column with a default": ("alter table {table} add column if not exists {name} integer default 7",),
    "build an index": ("create index concurrently if not exists {name} on {table} (pieces)",),
    "drop an index": ("drop index concurrently if exists logistics.{name}",),
    "rebuild the indexes": ("reindex table concurrently {table}",),
    "rebuild the indexes of the ledger": ("reindex table concurrently etl.separate_batches",),
    "vacuum in full": ("vacuum full {table}",),
    "vacuum the ledger in full": ("vacuum full etl.touched", "vacuum full etl.pending", "vacuum full etl.failures"),
    "analyze": ("analyze {table}",),
    "cluster": ("cluster {table} using {index}",),
    "lock for a moment": (
        "begin",
        "lock table {table} in access exclusive mode",
        "select pg_sleep({seconds})",
        "commit",
    ),
    "lock against writers": (
        "begin",
        "lock table {table} in share row exclusive mode",
        "select pg_sleep({seconds})",
        "commit",
    ),
    "lock the ledger": ("begin", "lock table etl.batches in exclusive mode", "select pg_sleep({seconds})", "commit"),
    "lock an aggregate": (
        "begin",
        "lock table {aggregate} in access exclusive mode",
        "select pg_sleep({seconds})",
        "commit",
    ),
    "empty an aggregate": ("truncate {aggregate}",),
    "vacuum an aggregate in full": ("vacuum full {aggregate}",),
    "revoke for a moment": (
        "revoke insert, update on {table} from etl_loader",
        "select pg_sleep({seconds})",
        "grant insert, update on {table} to etl_loader",
    ),
    "revoke an aggregate for a moment": (
        "revoke update, delete on {aggregate} from etl_loader",
        "select pg_sleep({seconds})",
        "grant update, delete on {aggregate} to etl_loader",
    ),
    "cancel a statement": (
        """
        select pg_cancel_backend(pid) from pg_stat_activity
        where application_name ~ '^etl' and datname = current_database() and state <> 'idle' order by random() limit 1
        """,
    ),
    "end a session": (
        """
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name ~ '^etl' and datname = current_database() order by random() limit 1
        """,
    ),
    "end a session at work": (
        """
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name ~ '^etl' and datname = current_database() and state <> 'idle' order by random() limit 1
        """,
    ),
    "hold rows": (
        "begin",
        "select from {table} order by {key} limit 200 for update",
        "select pg_sleep({seconds})",
        "commit",
    ),
}

# These write a table anew, without the versions of its rows that an open snapshot sees.
REWRITES: dict[str, tuple[LiteralString, ...]] = {
    "widen a column": ("alter table {table} alter column pieces type bigint",),
    "narrow a column": ("alter table {table} alter column pieces type integer",),
    "add a computed default": (
        "alter table {table} add column if not exists {name} double precision default random()",
    ),
}

DROP_STAGING: dict[str, tuple[LiteralString, ...]] = {
    "drop the staging tables": (
        """
        do $$
        declare
            name text;
        begin
            for name in select relname from pg_class c
                where relnamespace = 'etl_staging'::regnamespace and relkind = 'r' and relpersistence = 'p'
            loop
                execute format('drop table if exists etl_staging.%I', name);
            end loop;
        end;
        $$
        """,
    ),
}

ALL: dict[str, tuple[LiteralString, ...]] = STATEMENTS | REWRITES | DROP_STAGING

# A person changes rows; the returned keys and versions are those of the changed rows.
EDITS: dict[str, LiteralString] = {
    "add to the cost": """
        update {table} set freight_cost = coalesce(freight_cost, 0) + 100000
        where {key} in (select {key} from {table} order by md5({key} || {salt}) limit 40)
        returning {key}, status
    """,
    "delete": """
        delete from {table}
        where {key} in (select {key} from {table} order by md5({key} || {salt}) limit 10)
        returning {key}, status
    """,
}
