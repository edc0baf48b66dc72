-- name: look
-- Let the transaction see one state of the database, and change nothing.
set transaction isolation level repeatable read, read only;

-- name: run
-- Return what an undo needs of a run: whether its rows are visible, the replace that was published over its rows, for how
-- many tables its batches have counts, how many older versions it wrote over and keys it deleted, and how many rows may have
-- written over versions uncounted.
select
    r.run, r.number, r.dataset, r.source, r.mode, r.started_at, r.undone_at, r.rows_undone,
    not r.is_atomic or r.published_at is not null as is_visible,
    (
        select p.run
        from etl.runs p
        where p.dataset = r.dataset and p.number <> r.number and p.mode = 'replace'
            and p.published_at > (select min(loaded_at) from etl.batches b where b.run = r.run)
        order by p.published_at
        limit 1
    ) as replaced_by,
    b.tables, b.rows_loaded, b.unchanged, b.keys_deleted,
    b.rows_replaced + coalesce(r.rows_replaced, 0) as rows_replaced,
    case when r.is_atomic and r.rows_replaced is null then b.rows_loaded else b.rows_uncounted end as rows_uncounted
from etl.runs r
cross join lateral (
    select
        coalesce(max(cardinality(rows)), 0) as tables,
        coalesce(sum(coalesce(rows[1], count_loaded, 0)), 0)::bigint as rows_loaded,
        coalesce(sum(count_unchanged), 0)::bigint as unchanged,
        coalesce(sum(batches.rows_replaced), 0)::bigint as rows_replaced,
        coalesce(sum(batches.count_deleted), 0)::bigint as keys_deleted,
        coalesce(
            sum(coalesce(rows[1], count_loaded, 0)) filter (where batches.rows_replaced is null), 0
        )::bigint as rows_uncounted
    from etl.batches where batches.run = r.run
) b
where r.run = %(run)s;

-- name: replace_before
-- Return the replace that was published last before a run of the same dataset.
select p.run
from etl.runs r
join etl.runs p on p.dataset = r.dataset and p.number < r.number and p.mode = 'replace' and p.published_at is not null
where r.run = %(run)s
order by p.published_at desc
limit 1;

-- name: count_rows
-- Count the rows of a table, and those of a run.
select count(*) as all_rows, count(*) filter (where etl_run = {number}) as own_rows from {table};

-- name: missing_of_others
-- Count the rows that the other runs of a dataset loaded into one of its tables, and that are not there under their runs any
-- more. Rows that the ledger does not know count, too: then it is not complete.
with held as (
    select etl_run, count(*) as rows from {table} group by etl_run
), loaded as (
    select r.number, sum(coalesce(b.rows[{place}], b.count_loaded, 0)) as rows
    from etl.runs r
    join etl.batches b using (run)
    where r.dataset = {dataset} and r.number <> {number} and r.undone_at is null
        and (not r.is_atomic or r.published_at is not null)
    group by r.number
)
select coalesce(sum(abs(loaded.rows - coalesce(held.rows, 0))), 0)::bigint
from loaded
left join held on held.etl_run = loaded.number;

-- name: delete_rows
-- Delete the rows of a run from a table.
delete from {table} where etl_run = {number};

-- name: forget_firsts
-- Forget the first values that the versions of a run sent.
update {table} set {first} = null, {set_version} {place} = null where {place}[1] = {number};

-- name: make_firsts
-- Make the table of the first values that rows of a run know from versions of other runs.
create temporary table {firsts} on commit drop as select {columns} from {table} with no data;

-- name: note_firsts
-- Note the first values of a column that rows of a run know from versions of other runs: the rows are to go.
insert into {firsts} ({columns})
select {key}, {first}, {version} {place}[1], {place}[2], {place}[3]
from {table}
where etl_run = {number} and {place}[1] <> {number};

-- name: lock_order
-- Let no other session write versions into a table until the transaction ends.
select pg_advisory_xact_lock(hashtextextended('etl:order:' || %(table)s, 0));

-- name: seen_later
-- The first place at which each digest was seen by a later run.
select distinct on (entry.digest) entry.digest, seen.run, seen.batch, entry.place::integer as place
from etl.seen
cross join unnest(seen.digests) with ordinality as entry (digest, place)
where seen.table_name = {name} and seen.run > {number} and entry.digest is not null
order by entry.digest, seen.run, seen.batch, entry.place

-- name: keep_seen
-- Give the rows of a run that later runs have found unchanged to the first of these: they are rows of its source, too.
with seen as materialized ({seen})
update {table} as old
set etl_run = seen.run, etl_batch = seen.batch, etl_place = seen.place
from seen
where old.etl_run = {number} and old.etl_digest = seen.digest;

-- name: keep_children
-- Give the child rows of a run to the run that has the row of their record.
update {child} as child
set etl_run = old.etl_run, etl_batch = old.etl_batch, etl_place = old.etl_place
from {table} as old
where child.etl_run = {number} and old.etl_run > {number} and {is_key_of_child};

-- name: lacks_seen
-- Return whether later runs have found records unchanged of which it is not known any more which they are.
select exists (
    select from etl.runs r
    join etl.batches b using (run)
    where r.versions_of = %(table)s and r.number > %(number)s and r.superseded_by is null and b.count_unchanged > 0
        and not exists (
            select from etl.seen s where s.table_name = %(table)s and s.run = r.number and s.batch = b."offset"
        )
);

-- name: forget_seen
-- Forget which records a run has found unchanged.
delete from etl.seen where run = %(number)s;

-- name: count_seen
-- Count the rows of a run that a later run has found unchanged.
with seen as materialized ({seen})
select count(*) from {table} as old join seen on seen.digest = old.etl_digest where old.etl_run = {number};

-- name: count_seen_children
-- Count the child rows of the records of a run that a later run has found unchanged.
with seen as materialized ({seen})
select count(*)
from {table} as old
join seen on seen.digest = old.etl_digest
join {child} as child on {is_key_of_child} and child.etl_run = {number}
where old.etl_run = {number};

-- name: staging_of_run
-- List the tables in etl_staging that belong to a run. Only tables that this role may drop.
select c.relname
from pg_class c
where c.relnamespace = to_regnamespace('etl_staging') and c.relkind = 'r' and pg_has_role(c.relowner, 'usage')
    and c.relname ~ ('^' || %(run)s || '_((keys|refused)_)?[0-9]+$')
order by c.relname;

-- name: supersede_failures
-- Note that what waits of a run must not be replayed, and count these files and their records.
with superseded as (
    update etl.failures set state = 'superseded' where run = %(run)s and state = 'pending' returning count_records
)
select count(*) as files, coalesce(sum(count_records), 0)::bigint as records from superseded;

-- name: count_pending
-- Count the files and the records that wait of a run.
select count(*) as files, coalesce(sum(count_records), 0)::bigint as records
from etl.failures
where run = %(run)s and state = 'pending';

-- name: superseded_by
-- List the runs whose place a run has taken, and whether their rows are visible; none if the rows of that run were gone.
select r.number, not r.is_atomic or r.published_at is not null as is_visible
from etl.runs r
join etl.runs later on later.number = r.superseded_by
where later.run = %(run)s and r.number <> later.number and later.superseded_by is distinct from later.number
order by r.number;

-- name: restore_runs
-- Let runs whose place a run had taken get what took its own place, or count again, with the failures that waited; return
-- those that count again.
with restored as (
    update etl.runs r
    set superseded_by = later.superseded_by
    from etl.runs later
    where later.run = %(run)s and r.number = any(%(numbers)s)
    returning r.run, r.number, r.superseded_by
), waiting as (
    update etl.failures
    set state = 'pending'
    where state = 'superseded' and run in (select run from restored where superseded_by is null)
)
select run from restored where superseded_by is null order by number;

-- name: note_undone
-- Note that a run was taken back, so that its source is not known any more, and notify the listeners.
update etl.runs
set
    undone_at = clock_timestamp(),
    undone_by = %(by)s,
    rows_undone = %(rows)s,
    superseded_by = coalesce(superseded_by, number)
where run = %(run)s
returning undone_at, pg_notify('etl_runs', dataset);
