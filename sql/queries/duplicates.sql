-- name: has_keys
-- Tell whether the table of a run's keys is there.
select to_regclass(%(keys)s) is not null;

-- name: make_keys
-- Make the table of the keys that the records of a run have, with the types of their table.
create table {keys} as select {key}, etl_batch, etl_place from {table} with no data;

-- name: make_keys_unique
-- Let each key stand once.
alter table {keys} add primary key ({key});

-- name: has_batches
-- Tell whether a run holds batches.
select exists (select from etl.batches where run = %(run)s);

-- name: fill_keys
-- Take the keys of a run from the rows that are there of it.
insert into {keys} ({key}, etl_batch, etl_place)
select distinct on ({key}) {key}, etl_batch, etl_place
from {table}
where etl_run = (select number from etl.runs where run = %(run)s)
order by {key}, etl_batch, etl_place;

-- name: drop_keys
-- Let go of the keys of a run.
drop table if exists {keys};

-- name: make_firsts
-- Make the table of a batch's records that are the first of their key, once per connection.
create temporary table if not exists {firsts} (
    etl_batch bigint not null,
    etl_place integer not null
) on commit delete rows;

-- name: index_firsts
-- Find one record's place without reading all, which counts where records come in one by one.
create index if not exists etl_firsts_place_idx on {firsts} (etl_place);

-- name: note_keys
-- Note the keys that no record before had, and which records have them; sorted, so that two batches wait for one another
-- in one order.
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
-- The rows of those records that are the first of their key.
(select batch.* from {source} as batch join {firsts} as firsts using (etl_batch, etl_place));

-- name: places_left
-- List the records of a batch whose key an earlier one had.
select batch.etl_place::integer
from {source} as batch
where not exists (
    select from {firsts} as firsts
    where firsts.etl_batch = batch.etl_batch and firsts.etl_place = batch.etl_place
)
order by batch.etl_place;

-- name: count_kept
-- Count the rows of a batch but those of some records.
select count(*) from {table} where etl_place <> all(%(refused)s::integer[]);
