-- name: make_refused
-- Make the table of the keys of the records that a replace rejects, with the types of the facts. A row without a key is
-- a record whose key cannot be read.
create table {refused} as select {key} from {table} with no data;

-- name: note_unreadable
-- Note records whose keys cannot be read.
insert into {refused} ({first_key}) select null from generate_series(1, %(records)s);

-- name: lacks_refused
-- Return whether fewer keys are noted than a run has refused records.
select {counts} < (
    select coalesce(sum(coalesce(count_rejected, 0) + coalesce(count_failed, 0)), 0)
    from etl.batches
    where run = %(run)s
);

-- name: has_refused_keys
-- Return whether a record was rejected, and whether the key of one cannot be read.
select exists (select from {refused}), exists (select from {refused} where {first_key} is null);

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

-- name: is_refused
-- The condition that a record with the key of a row of the source was rejected.
({key_of_excluded}) in (select {key} from {refused});

-- name: is_deletable
-- The condition that no record with the key of a row was rejected.
not exists (select from {refused} as refused where {is_key_of_refused});

-- name: is_written
-- The condition that a row of the source is written in the place of the row of its key.
(({data_of_old}) is distinct from ({data_of_excluded}) or {is_refused});

-- name: make_changed
-- Note the keys whose child rows differ from those of the source, without the keys whose records stay as they are.
create temporary table {changed} on commit drop as
select {key} from (
    select {key} from (
        (select {data} from {table}) except all (select {data} from {source})
    ) as gone
    union
    select {key} from (
        (select {data} from {source}) except all (select {data} from {table})
    ) as come
) as old
where exists (select from {won_table} as new where {is_key_of_new}) or {is_deletable};

-- name: count_gone
-- Count the child rows that the source replaces by no other row of the same key.
select coalesce(sum(greatest(0, gone.etl_count - coalesce(come.etl_count, 0))), 0)::bigint
from (select {key}, count(*) as etl_count from {table} join {changed} using ({key}) group by {key}) as gone
left join (
    select {key}, count(*) as etl_count from {source} join {changed} using ({key}) group by {key}
) as come using ({key});

-- name: insert_changed
-- Insert the child rows of the keys whose child rows differ.
insert into {table} ({columns}) overriding system value
select {columns_of_child} from {source} as child join {changed} as won on {same_key} {order_of_child};

-- name: delete_absent
-- Delete the records that the new source does not hold.
delete from {table} as old
where not exists (select from {source} as new where {same_key}) and {is_deletable};

-- name: count_absent
-- Count the records that the new source does not hold, and those of them that may be deleted.
select count(*), count(*) filter (where {is_deletable})
from {table} as old
where not exists (select from {source} as new where {same_key});

-- name: replace_records
-- Insert the newest version of each key, or update the row if a column differs. An equal row is updated if a record
-- with its key was rejected: the row then counts as seen by this run, and a replay of an earlier version does not win.
insert into {table} as old ({columns}) overriding system value
select distinct on ({key}) {columns}
from {source}
order by {key}, {newest}
on conflict ({key}) do update set {assignments}
where {condition};
