-- name: make_keys
-- Make the table of the keys of a run's records, with the types of the facts.
create table {keys} as select {key}, etl_batch, etl_place from {table} with no data;
alter table {keys} replica identity full;

-- name: lacks_keys
-- Return whether a run has loaded more records, without duplicates, than it has keys.
select {counts} < (
    select coalesce(sum(count_loaded - case
        when r.on_duplicate = 'reject' then 0 else coalesce((policies ->> 'duplicates')::bigint, 0)
    end), 0)
    from etl.batches
    join etl.runs r using (run)
    where run = %(run)s
);

-- name: fill_keys
-- Add the keys of the rows that a run has loaded.
insert into {keys} ({key}, etl_batch, etl_place)
select distinct on ({key}) {key}, etl_batch, etl_place
from {rows}
where etl_run = (select number from etl.runs where run = %(run)s)
order by {key}, etl_batch, etl_place
on conflict do nothing;

-- name: published_and_staged
-- The rows of an atomic run: those that are visible, and those that are not yet.
(
    select {key}, etl_batch, etl_place, etl_run from {table}
    union all
    select {key}, etl_batch, etl_place, etl_run from {staging}
) as loaded

-- name: index_firsts
-- Find the place of one record without reading the whole table, which matters when records load one by one.
create index if not exists etl_firsts_place_idx on {firsts} (etl_place);

-- name: note_keys
-- Note the keys that no earlier record has, and the records that have them; sorted, so that two batches lock the keys in
-- the same order.
with noted as (
    insert into {keys} ({key}, etl_batch, etl_place)
    select distinct on ({key}) {key}, etl_batch, etl_place
    from {source} as batch
    order by {key}, etl_batch, etl_place
    on conflict do nothing
    returning etl_batch, etl_place
)
insert into {firsts} (etl_batch, etl_place)
select etl_batch, etl_place from noted;

-- name: firsts_of
-- The rows of the records that are the first with their key.
(select batch.* from {source} as batch join {firsts} as firsts using (etl_batch, etl_place));

-- name: duplicate_places
-- List the records of a batch whose key an earlier record has.
select batch.etl_place::integer
from {source} as batch
where not exists (
    select from {firsts} as firsts
    where firsts.etl_batch = batch.etl_batch and firsts.etl_place = batch.etl_place
)
order by batch.etl_place;

-- name: count_kept
-- Count the rows of a batch without the rows of the refused records.
select count(*) from {table} where etl_place <> all(%(refused)s::integer[]);
