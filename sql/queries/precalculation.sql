-- name: table_exists
-- Tell whether there is a table of this name.
select to_regclass(%(table)s) is not null;

-- name: table_shape
-- Give no row of a table, but its columns.
select * from {table} limit 0;

-- name: select_shape
-- Give no row of what an aggregate computes, but its columns.
select * from (
{select}
) as computed limit 0;

-- name: primary_key
-- Tell the columns of a table's primary key, in its order.
select attname
from pg_index
cross join unnest(indkey::smallint[]) with ordinality as key_column (attnum, place)
join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key_column.attnum
where indrelid = to_regclass(%(table)s) and indisprimary
order by place;

-- name: lock_for_change
-- Let no refresh go on while the table of an aggregate is made anew; released with the transaction.
select pg_advisory_xact_lock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: drop_aggregate
-- Drop the table of an aggregate whose definition has other columns now.
drop table if exists {table};

-- name: forget_refresh
-- Note that an aggregate has to be refreshed.
delete from etl.refreshes where aggregate = %(aggregate)s;

-- name: create_aggregate
-- Make the empty table of an aggregate with the columns that it computes.
create table {table} as
{select}
with no data;

-- name: add_primary_key
-- Make the grain of an aggregate its primary key.
alter table {table} add primary key ({key});

-- name: comment_table
-- Say in the database what one row of an aggregate is.
comment on table {table} is {comment};

-- name: comment_column
-- Say in the database what a column of an aggregate is.
comment on column {column} is {comment};

-- name: roles_present
-- Tell which of the group roles there are.
select rolname from pg_roles where rolname in ('etl_loader', 'etl_analyst');

-- name: grant_to_etl_loader
-- Let loaders refresh an aggregate.
grant select, insert, update, delete on {table} to etl_loader;

-- name: grant_to_etl_analyst
-- Let analysts read an aggregate.
grant select on {table} to etl_analyst;

-- name: grant_refreshes_to_etl_loader
-- Let loaders note a refresh.
grant select, insert, update on etl.refreshes to etl_loader;

-- name: grant_freshness
-- Let a group role see how fresh the aggregates are.
grant select on analytics.freshness to {role};

-- name: lock
-- Wait in this session for the turn to refresh an aggregate, however long the refresh before takes.
select
    set_config('lock_timeout', '0', true),
    pg_advisory_lock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: unlock
-- Let the next refresh of an aggregate begin.
select pg_advisory_unlock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: see_one_snapshot
-- Make every statement of the transaction see the facts as the first one does.
set transaction isolation level repeatable read;

-- name: compute
-- Compute an aggregate beside its table.
create temporary table etl_fresh on commit drop as
{select};

-- name: delete_gone
-- Delete the rows of an aggregate whose keys are gone.
delete from {table} as kept
where not exists (select from pg_temp.etl_fresh as fresh where {same_key});

-- name: merge_changed
-- Insert the new rows of an aggregate and update those that differ; the others are neither written nor locked.
merge into {table} as kept
using pg_temp.etl_fresh as fresh on {same_key}
when matched and ({kept_values}) is distinct from ({fresh_values}) then
    update set {assignments}
when not matched then
    insert ({columns}) values ({fresh_columns});

-- name: note_refresh
-- Note how fresh an aggregate is, in the transaction that refreshes it.
insert into etl.refreshes (aggregate, definition_hash, refreshed_at, run, mode, rows, seconds, snapshot)
select
    %(aggregate)s,
    %(definition_hash)s,
    transaction_timestamp(),
    %(run)s,
    'full',
    (select count(*) from pg_temp.etl_fresh),
    round(extract(epoch from clock_timestamp() - transaction_timestamp()), 3),
    pg_current_snapshot()
on conflict (aggregate) do update set
    definition_hash = excluded.definition_hash,
    refreshed_at = excluded.refreshed_at,
    run = excluded.run,
    mode = excluded.mode,
    rows = excluded.rows,
    seconds = excluded.seconds,
    snapshot = excluded.snapshot
returning seconds, (select count(distinct {bucket}) from pg_temp.etl_fresh);

-- name: is_stale
-- Tell whether the last refresh of an aggregate, if any, missed a batch or a publication of its facts.
select not exists (
    select
    from etl.refreshes
    where aggregate = %(aggregate)s
        and definition_hash = %(definition_hash)s
        -- A snapshot of the future was taken in another server, from which this database was restored.
        and pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
        and not exists (
            select
            from etl.batches
            join etl.runs on runs.run = batches.run
            where runs.dataset = any(%(datasets)s)
                -- All before xmin is in the snapshot; this condition is the one that an index serves.
                and batches.xact >= pg_snapshot_xmin(refreshes.snapshot)
                and not pg_visible_in_snapshot(batches.xact, refreshes.snapshot)
        )
        and not exists (
            select
            from etl.runs
            where runs.dataset = any(%(datasets)s)
                and not pg_visible_in_snapshot(runs.published_xact, refreshes.snapshot)
        )
);
