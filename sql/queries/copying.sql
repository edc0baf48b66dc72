-- name: defer_flush
-- Let a batch commit without waiting for the disk; the transaction that finishes the run waits for all of them.
set local synchronous_commit = off;

-- name: copy_rows
-- Send rows in COPY's text format.
copy {table} ({columns}) from stdin;

-- name: make_temporary
-- Make the table that a batch is copied into before it is merged, once per connection.
create temporary table if not exists {temporary} (
    like {table} including constraints including defaults including generated
) on commit delete rows;

-- name: make_won
-- Make the table of the records whose version won, once per connection.
create temporary table if not exists {won} on commit delete rows as
select {key}, etl_batch, etl_place from {table} with no data;

-- name: make_staging_schema
-- Make the schema of rows that are not visible yet.
create schema if not exists etl_staging;

-- name: make_staging
-- Make the logged table that gathers the rows of an atomic run.
create table if not exists {staging} (
    like {table} including constraints including defaults including generated
);

-- name: drop_staging
-- Let go of what an atomic run gathered.
drop table if exists {staging};

-- name: staging_tables
-- List the staging tables of a run.
select c.relname from pg_class c
where c.relnamespace = to_regnamespace('etl_staging') and c.relkind = 'r' and starts_with(c.relname, %(prefix)s);

-- name: analyze_staging
-- Let the planner know how much was gathered.
analyze {staging};

-- name: merge_records
-- Insert the newest version of each key, or update when it is not older than what is there; sorted, so that two
-- loads lock the same keys in one order.
insert into {table} as old ({columns})
select {columns} from (
    select distinct on ({key}) {columns}
    from {source}
    order by {key}, {newest} etl_batch desc, etl_place desc
) as newest
order by {key}
on conflict ({key}) do update set {assignments}
where {is_not_older};

-- name: merge_records_returning
-- Merge, and keep which records won.
with merged as (
    insert into {table} as old ({columns})
    select {columns} from (
        select distinct on ({key}) {columns}
        from {source}
        order by {key}, {newest} etl_batch desc, etl_place desc
    ) as newest
    order by {key}
    on conflict ({key}) do update set {assignments}
    where {is_not_older}
    returning {key_of_old}, old.etl_batch, old.etl_place
)
insert into {won} ({key}, etl_batch, etl_place)
select {key}, etl_batch, etl_place from merged;

-- name: delete_children
-- Delete the child rows of the records that won.
delete from {table} as child using {won} as won where {same_key};

-- name: insert_children
-- Insert the child rows of the records that won.
insert into {table} ({columns})
select {columns_of_child}
from {source} as child
join {won} as won on won.etl_batch = child.etl_batch and won.etl_place = child.etl_place;

-- name: insert_all
-- Insert all that an atomic run gathered.
insert into {table} ({columns}) select {columns} from {source};

-- name: delete_all
-- Delete every row, without the lock that truncation takes.
delete from {table};

-- name: delete_absent
-- Delete the records that the new source does not hold.
delete from {table} as old
where not exists (select from {source} as new where {same_key});

-- name: replace_records
-- Insert the newest version of each key, or update where a column differs.
insert into {table} as old ({columns})
select distinct on ({key}) {columns}
from {source}
order by {key}, {newest} etl_batch desc, etl_place desc
on conflict ({key}) do update set {assignments}
where ({data_of_old}) is distinct from ({data_of_excluded});

-- name: keep_newest
-- Keep which records of the source are the newest of their key.
insert into {won} ({key}, etl_batch, etl_place)
select distinct on ({key}) {key}, etl_batch, etl_place
from {source}
order by {key}, {newest} etl_batch desc, etl_place desc;

-- name: delete_losers
-- Leave only the child rows of the newest version of each record.
delete from {source} as child
where not exists (
    select from {won} as won where won.etl_batch = child.etl_batch and won.etl_place = child.etl_place
);

-- name: replace_children
-- Delete and insert the child rows of those keys whose child rows differ.
with new as (
    select * from {source}
),
changed as (
    select {key} from ((select {data} from {table}) except all (select {data} from new)) as gone
    union
    select {key} from ((select {data} from new) except all (select {data} from {table})) as come
),
deleted as (
    delete from {table} as child using changed as won where {same_key}
)
insert into {table} ({columns})
select {columns_of_child} from new as child join changed as won on {same_key};
