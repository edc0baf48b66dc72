-- name: defer_flush
-- Let a batch commit without waiting for the disk; the transaction that finishes the run waits for all of them.
set local synchronous_commit = off;

-- name: await_flush
-- Let a batch be on the disk before the next one begins: what a crash took would come in behind those that it precedes.
set local synchronous_commit = on;

-- name: make_temporary
-- Make the table that a batch is copied into before it is merged, once per connection.
create temporary table if not exists {temporary} (
    like {table} including constraints including defaults including generated
) on commit delete rows;

-- name: drop_temporary
-- Let go of a table that a batch or a publication went through.
drop table if exists {temporary};

-- name: make_staging
-- Make the logged table that gathers the rows of an atomic run.
create table if not exists {staging} (
    like {table} including constraints including defaults including generated
);

-- name: make_rehearsal
-- Make the table that judges the rows of a rehearsal, and keeps none of them.
create temporary table if not exists {staging} (
    like {table} including constraints including defaults including generated
) on commit delete rows;

-- name: drop_staging
-- Let go of what an atomic run gathered.
drop table if exists {staging};

-- name: staging_given_up
-- List the staging tables of atomic runs of a dataset that never become visible, and the keys of those that never go
-- on, for a forced run of their source or a replace came after them; of these, the tables that this role may drop.
select c.relname
from etl.runs r
join pg_class c on (
    (c.relname ~ ('^' || r.run || '_[0-9]+$') and r.is_atomic and r.published_at is null)
    or (c.relname ~ ('^' || r.run || '_keys_[0-9]+$') and r.finished_at is null)
)
where c.relnamespace = to_regnamespace('etl_staging') and c.relkind = 'r' and pg_has_role(c.relowner, 'usage')
    and r.dataset = %(dataset)s
    and exists (
        select from etl.runs later
        where later.dataset = r.dataset and later.number > r.number and (
            (later.mode = 'replace' and later.published_at is not null)
            or (later.is_forced and later.head_sha256 = r.head_sha256)
        )
    );

-- name: analyze_staging
-- Let the planner know how much was gathered.
analyze {staging};

-- name: rows_known
-- Tell how many rows the planner takes a table to have; -1: it does not know.
select reltuples::bigint from pg_class where oid = %(table)s::regclass;

-- name: analyze
-- Let the planner know what a table holds now, unless another session is at it.
analyze (skip_locked) {table};

-- name: has_rows
-- Tell whether a table holds a row.
select exists (select from {table}) as has_rows;
