-- name: make_won
-- Make the table of the records whose version won, once per connection.
create temporary table if not exists {won} on commit delete rows as
select {key}, etl_run, etl_batch, etl_place from {table} with no data;

-- name: index_won
-- Find the place of one record without reading the whole table, which matters when records load one by one.
create index if not exists etl_won_place_idx on {won} (etl_place);

-- name: make_counters
-- Make the counters of a merge, and set them to 0. A sequence counts within the statement that writes; without it a
-- second statement would look up each key.
create temporary sequence if not exists etl_lost;
create temporary sequence if not exists etl_repeated;
select setval('pg_temp.etl_lost', 1, false), setval('pg_temp.etl_repeated', 1, false);

-- name: read_counters
-- Return how many versions lost to the row of their key, and how many met a row of their own run.
select
    case when lost.is_called then lost.last_value else 0 end as lost,
    case when repeated.is_called then repeated.last_value else 0 end as repeated
from pg_temp.etl_lost as lost, pg_temp.etl_repeated as repeated;

-- name: counted_condition
-- The condition that a version wins over the row of its key, which counts the versions that lose, and those that meet a
-- row of their own run.
(old.etl_run <> excluded.etl_run or nextval('pg_temp.etl_repeated') > 0)
and (({condition}) or nextval('pg_temp.etl_lost') < 0)

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

-- name: assignments_of_first
-- What an update does for a column of which the first value is kept: the version that is written over was the first one,
-- unless an older one is known.
{first} = case when old.{place} is null then old.{column} else old.{first} end,
{version}
{place} = case
    when old.{place} is null and old.{column} is not null then array[old.etl_run, old.etl_batch, old.etl_place]
    else old.{place}
end

-- name: assignment_of_version
-- The same for the time of that version, by which versions are ordered.
{version} = case when old.{place} is null and old.{column} is not null then old.{newest} else old.{version} end,

-- name: keep_first
-- Keep the first value from versions that lost to the row of their key, which is locked by the statement that they lost to.
-- These rows are looked up first: for the join alone the planner would read the whole table for each batch.
update {table} as old
set {first} = lost.{column}, {set_version} {place} = lost.etl_lineage
from (
    select distinct on ({key}) {listed}, array[etl_run, etl_batch, etl_place]::bigint[] as etl_lineage
    from {source} as batch
    where {column} is not null
    order by {key}, {oldest} etl_run, etl_batch, etl_place
) as lost
where {same_key}
    and old.ctid = any(array(
        select met.ctid
        from {source} as lost
        cross join lateral (select old.ctid from {table} as old where {same_key} offset 0) as met
    ))
    and lost.etl_lineage <> array[old.etl_run, old.etl_batch, old.etl_place]
    and case when old.{place} is null and old.{column} is null then true else {is_older} end;

-- name: is_older_place
-- The condition that a version which lost comes before the first one that is known, by its place alone.
lost.etl_lineage < coalesce(old.{place}, array[old.etl_run, old.etl_batch, old.etl_place])

-- name: is_older
-- The condition that a version which lost is older than the first one that is known.
case
    when lost.{newest} is not distinct from case when old.{place} is null then old.{newest} else old.{version} end
        then {is_older_place}
    when lost.{newest} is null then true
    else coalesce(lost.{newest} < case when old.{place} is null then old.{newest} else old.{version} end, false)
end

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
    returning {key_of_old}, old.etl_run, old.etl_batch, old.etl_place
)
insert into {won_table} ({key}, etl_run, etl_batch, etl_place)
select {key}, etl_run, etl_batch, etl_place from merged;

-- name: delete_children
-- Delete the child rows of the records that won.
delete from {table} as child using {winners} as won where {same_key};

-- name: winners
-- The keys of the records that won, as arrays: of these the planner expects few rows, and so looks up each key. For a
-- join with the table of the keys it would read all child rows for each batch.
(
    select winner.*
    from (select {arrays} from {won} as winner) as keys
    cross join lateral unnest({names}) as winner ({key})
)

-- name: count_children
-- Count the child rows of the records that won.
select count(*) from {table} as child join {won} as won on {same_key};

-- name: count_replaced
-- Count for each run of the source the older versions that its records write over: those of earlier runs of the source,
-- and of the table. Of several versions of a key in one run, the newest is written.
with best as (
    select distinct on ({key}, etl_run) {key}, etl_run, {newest_value} as etl_newest
    from {source} as batch
    order by {key}, etl_run, {newest}
),
compared as (
    select
        new.etl_run,
        new.etl_newest,
        old.etl_run is not null or count(*) over earlier > 0 as is_after_another,
        greatest(old.etl_newest, max(new.etl_newest) over earlier) as newest_before
    from best as new
    left join lateral (
        select etl_run, {newest_value} as etl_newest from {table} as old where {same_key}
        offset 0 -- one search in the index for each key
    ) as old on true
    window earlier as (
        partition by {key_of_new} order by new.etl_run rows between unbounded preceding and 1 preceding
    )
)
select etl_run, count(*)
from compared
where is_after_another and (newest_before is null or etl_newest >= newest_before)
group by etl_run;

-- name: count_duplicates
-- Count for each run of the source the records with the key of another one.
select etl_run, sum(count - 1)::bigint
from (select etl_run, count(*) from {source} as batch group by etl_run, {key} having count(*) > 1) as repeated
group by etl_run;

-- name: count_writes
-- Count the versions of the source that a statement has written: those that did not lose to the row of their key. A
-- version that was written is recognised by its lineage: a trigger may change other columns.
select count(*) filter (
    where old.etl_run is null or ({lineage_of_old}) is not distinct from ({lineage_of_excluded})
        or coalesce({condition}, false)
)
from (
    select distinct on ({key}) {columns}
    from {source} as batch
    order by {key}, {newest}
) as excluded
left join {table} as old on {is_key_of_excluded};

-- name: insert_children
-- Insert the child rows of the records that won, those of a partition together.
insert into {table} ({columns}) overriding system value
select {columns_of_child}
from {source} as child
join {won} as won
    on won.etl_run = child.etl_run and won.etl_batch = child.etl_batch and won.etl_place = child.etl_place
{order_of_child};

-- name: count_new_children
-- Count the child rows of the source that belong to the records that won.
select count(*)
from {source} as child
join {won} as won
    on won.etl_run = child.etl_run and won.etl_batch = child.etl_batch and won.etl_place = child.etl_place;

-- name: insert_unbeaten
-- Insert the records of which this run has no version yet; the server refuses a key that another run loaded.
insert into {table} ({columns}) overriding system value
select {columns} from (
    select distinct on ({key}) {columns} from {source} as batch order by {key}, {newest}
) as new
where not exists (select from {table} as old where {same_key} and old.etl_run = new.etl_run)
order by {key};

-- name: count_unbeaten
-- Count the records of which this run has no version yet.
select count(*)
from (select distinct on ({key}) {columns} from {source} as batch order by {key}, {newest}) as new
where not exists (select from {table} as old where {same_key} and old.etl_run = new.etl_run);

-- name: insert_all
-- Insert all rows of the source; an identity column takes its value, as COPY gives it.
insert into {table} ({columns}) overriding system value select {columns} from {source} as batch;

-- name: insert_new
-- Insert all rows of the source, whose keys come once; sorted, so that two loads lock the keys in the same order, and the
-- rows of a partition come together.
insert into {table} ({columns}) overriding system value select {columns} from {source} as batch order by {order};

-- name: count_all
-- Count all rows of the source.
select count(*) from {source} as batch;
