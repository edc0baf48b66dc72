-- name: forget_seen
-- Forget where records were seen before the last two runs. The places are kept while an earlier run is unfinished, or
-- records of it wait in the failed store.
delete from etl.seen
where table_name = %(table)s
    and run < (
        select min(run)
        from (
            select distinct run from etl.seen where table_name = %(table)s order by run desc limit 2
        ) as last
    )
    and run < coalesce(
        (
            select min(r.number)
            from etl.runs r
            where r.finished_at is null and r.superseded_by is null
                and (r.versions_of = %(table)s or (r.versions_of is null and r.dataset = %(dataset)s))
        ),
        9223372036854775807
    )
    and run < coalesce(
        (
            select min(r.number)
            from etl.failures f
            join etl.runs r using (run)
            where f.state = 'pending'
                and (r.versions_of = %(table)s or (r.versions_of is null and r.dataset = %(dataset)s))
        ),
        9223372036854775807
    );

-- name: make_unchanged
-- Make the table of the unchanged records of a batch, once per connection.
create temporary table if not exists {unchanged} (
    etl_place integer not null,
    etl_digest bigint not null
) on commit delete rows;

-- name: make_keys
-- Make the table of the keys and the digests of a batch, once per connection.
create temporary table if not exists {keys} on commit delete rows as
select {key}, etl_place, etl_digest from {table} with no data;

-- name: unchanged_places
-- Return the places of the unchanged records as one text.
select string_agg(etl_place::text, ',') from {unchanged};

-- name: find_unchanged
-- Note the records of a batch whose rows have their digest. Of a key that comes twice in the batch none is one. Each row
-- is looked up by its key: for a join the planner would read the whole table for each batch. In the order of the keys a
-- lookup finds the page of the index where the one before was.
insert into {unchanged} (etl_place, etl_digest)
select batch.etl_place, batch.etl_digest
from (
    select {key}, min(etl_place) as etl_place, min(etl_digest) as etl_digest
    from {source} as batch
    group by {key}
    having count(*) = 1
    order by {key}
) as batch
cross join lateral (select old.etl_digest from {table} as old where {is_key_of_batch} offset 0) as old
where old.etl_digest = batch.etl_digest and {is_not_deleted};

-- name: is_not_deleted
-- The condition that no record of the batch deletes the key of a record.
not exists (select from {deletions} as gone where {is_key_of_gone})

-- name: versions
-- The versions of a batch, of records and of deletions.
(select {versions} from {records} as batch union all select {versions} from {deletions} as batch)

-- name: without_unchanged
-- The rows of a batch without those of the unchanged records.
(
    select batch.* from {source} as batch
    where not exists (select from {unchanged} as same where same.etl_place = batch.etl_place)
)

-- name: note_seen
-- Enter the digest of each unchanged record at its place in the batch.
insert into etl.seen (table_name, run, batch, digests)
select {name}, {run}, {batch}, array(
    select same.etl_digest
    from generate_series(1, {count}) as record (place)
    left join {unchanged} as same on same.etl_place = record.place
    order by record.place
);

-- name: make_seen
-- Make the table of the last places at which records were seen since a late batch, once per connection.
create temporary table if not exists {seen} (
    etl_digest bigint primary key,
    etl_run bigint not null,
    etl_batch bigint not null,
    etl_place integer not null
) on commit delete rows;

-- name: index_beaten
-- Find the place of one record without reading the whole table, which matters when records load one by one.
create index if not exists etl_beaten_idx on {beaten} (etl_place);

-- name: find_seen
-- Note the last place at which each record was seen since a batch.
insert into {seen} (etl_digest, etl_run, etl_batch, etl_place)
select distinct on (entry.digest) entry.digest, seen.run, seen.batch, entry.place
from etl.seen
cross join unnest(seen.digests) with ordinality as entry (digest, place)
where seen.table_name = {name} and (seen.run, seen.batch) >= ({run}, {batch}) and entry.digest is not null
    and ({wanted})
order by entry.digest, seen.run desc, seen.batch desc, entry.place desc;

-- name: of_keys
-- The condition that a digest is that of a row with a key of the batch.
entry.digest in (
    select old.etl_digest
    from {source} as batch
    cross join lateral (select old.etl_digest from {table} as old where {is_key_of_batch} offset 0) as old
)

-- name: find_beaten
-- Note the records of a batch that are older than the row of their key, which was seen after them.
insert into {beaten} (etl_batch, etl_place)
select excluded.etl_batch, excluded.etl_place
from {source} as excluded
cross join lateral (
    select {columns_of_row}, seen.etl_run, seen.etl_batch, seen.etl_place
    from {table} as row
    join {seen} as seen on seen.etl_digest = row.etl_digest
    where {is_key_of_row}
        and (row.etl_run, row.etl_batch, row.etl_place) < (seen.etl_run, seen.etl_batch, seen.etl_place)
    offset 0
) as old
where not coalesce({is_not_older}, false);

-- name: without_beaten
-- The rows of a batch without those of the beaten records.
(
    select batch.* from {source} as batch
    where not exists (
        select from {beaten} as beaten
        where beaten.etl_batch = batch.etl_batch and beaten.etl_place = batch.etl_place
    )
)
