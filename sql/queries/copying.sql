-- name: await_flush
-- Commit a batch to the disk before the next batch begins: a batch that a crash took would load after its successors.
set local synchronous_commit = on;

-- name: staging_abandoned
-- List the staging tables of a dataset's atomic runs that never become visible, and the tables of keys of runs that
-- never continue, because a forced run of the same source or a replace came later. Only tables that this role may drop.
select c.relname
from etl.runs r
join pg_class c on (
    (c.relname ~ ('^' || r.run || '_[0-9]+$') and r.is_atomic and r.published_at is null)
    or (c.relname ~ ('^' || r.run || '_(keys|refused)_[0-9]+$') and r.finished_at is null)
)
where c.relnamespace = to_regnamespace('etl_staging') and c.relkind = 'r' and pg_has_role(c.relowner, 'usage')
    and r.dataset = %(dataset)s and r.superseded_by is not null;

-- name: rows_known
-- Return the planner's number of rows of a table; -1: unknown.
select reltuples::bigint from pg_class where oid = %(table)s::regclass;

-- name: analyze
-- Update the planner's statistics of a table, unless another session holds its lock.
analyze (skip_locked) {table};

-- name: count_batches
-- Count the rows of each batch in a staging table.
select etl_batch, count(*) from {table} group by etl_batch;

-- name: has_rows
-- Return whether a table holds a row.
select exists (select from {table}) as has_rows;

-- name: updates
-- Return how many rows of a table the session has updated in this transaction, and in those that the server has not added
-- to its statistics yet; also by a part that was rolled back. Null: the server does not count.
select case
    when current_setting('track_counts')::boolean then coalesce(
        (
            select sum(pg_stat_get_xact_tuples_updated(p.relid))::bigint
            from pg_partition_tree(%(table)s::regclass) p
        ),
        pg_stat_get_xact_tuples_updated(%(table)s::regclass)
    )
end;

-- name: take_order
-- Lock the order of the versions of a table until the end of the transaction; return whether the batch is late.
select etl.take_order(%(table)s, %(run)s, %(batch)s);
