-- name: make_won
-- Make the table of the records whose version won, once per connection.
create temporary table if not exists {won} on commit delete rows as
select {key}, etl_batch, etl_place from {table} with no data;

-- name: index_won
-- Find the place of one record without reading the whole table, which matters when records load one by one.
create index if not exists etl_won_place_idx on {won} (etl_place);

-- name: merge_records
-- Insert the newest version of each key, or resolve the conflict with a loaded version; sorted, so that two loads lock
-- the keys in the same order.
insert into {table} as old ({columns}) overriding system value
select {columns} from (
    select distinct on ({key}) {columns}
    from {source} as batch
    order by {key}, {newest}
) as newest
order by {key}
{resolution};

-- name: merge_records_returning
-- Merge, and note the records that won.
with merged as (
    insert into {table} as old ({columns}) overriding system value
    select {columns} from (
        select distinct on ({key}) {columns}
        from {source} as batch
        order by {key}, {newest}
    ) as newest
    order by {key}
    {resolution}
    returning {key_of_old}, old.etl_batch, old.etl_place
)
insert into {won_table} ({key}, etl_batch, etl_place)
select {key}, etl_batch, etl_place from merged;

-- name: delete_children
-- Delete the child rows of the records that won.
delete from {table} as child using {won} as won where {same_key};

-- name: insert_children
-- Insert the child rows of the records that won.
insert into {table} ({columns}) overriding system value
select {columns_of_child}
from {source} as child
join {won} as won on won.etl_batch = child.etl_batch and won.etl_place = child.etl_place;

-- name: insert_unbeaten
-- Insert the records of which this run has no version yet; the server refuses a key that another run loaded.
insert into {table} ({columns}) overriding system value
select {columns} from (
    select distinct on ({key}) {columns} from {source} as batch order by {key}, {newest}
) as new
where not exists (select from {table} as old where {same_key} and old.etl_run = new.etl_run)
order by {key};

-- name: insert_all
-- Insert all rows of the source.
insert into {table} ({columns}) overriding system value select {columns} from {source} as batch;

-- name: delete_all
-- Delete every row, without the lock that truncation takes.
delete from {table};

-- name: delete_absent
-- Delete the records that the new source does not hold.
delete from {table} as old
where not exists (select from {source} as new where {same_key});

-- name: replace_records
-- Insert the newest version of each key, or update the row if a column differs.
insert into {table} as old ({columns}) overriding system value
select distinct on ({key}) {columns}
from {source}
order by {key}, {newest}
on conflict ({key}) do update set {assignments}
where ({data_of_old}) is distinct from ({data_of_excluded});

-- name: keep_newest
-- Note the records of the source that are the newest with their key.
insert into {won_table} ({key}, etl_batch, etl_place)
select distinct on ({key}) {key}, etl_batch, etl_place
from {source}
order by {key}, {newest};

-- name: delete_losers
-- Delete the child rows of all but the newest version of each record.
delete from {source} as child
where not exists (
    select from {won} as won where won.etl_batch = child.etl_batch and won.etl_place = child.etl_place
);

-- name: replace_children
-- Delete and insert the child rows of each key whose child rows differ.
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
insert into {table} ({columns}) overriding system value
select {columns_of_child} from new as child join changed as won on {same_key};
