-- name: is_emptied
-- Return whether a table holds no row of any run, although the ledger has rows that were loaded into it. One statement,
-- because a batch and its entry in the ledger commit together. In a table with more rows than `most`, only those are
-- looked at, and the answer is no. Child rows that `may_go` with a later version of their record must be there if the
-- newest run loaded some, unless an older version may have won (`newest_by`); an append removes none.
select case
    when exists (
        select from (select etl_run from {table} limit {most}) as held
        join etl.runs on runs.number = held.etl_run
    ) then false
    when (select count(*) from (select from {table} limit {most}) as held) = {most} then false
    when {may_go} and exists (select from etl.runs where {is_live} and runs.mode <> 'append') then not {newest_by} and coalesce(
        (
            select bool_or(batches.rows[{place}] > 0)
            from etl.batches
            where batches.run = (
                select runs.run
                from etl.runs
                where {is_live} and runs.started_at > {since} and exists (
                    select from etl.batches
                    where batches.run = runs.run and batches.count_loaded > coalesce(batches.count_unchanged, 0)
                    offset 0 -- one search in the index for each run, from the newest on
                )
                order by runs.number desc
                limit 1
            )
        ),
        false
    )
    else exists (
        select from etl.runs join etl.batches on batches.run = runs.run
        where {is_live} and batches.rows[{place}] > 0 and runs.started_at > {since}
    )
end;

-- name: is_live
-- The condition that the rows of a run are in the tables of its dataset, as far as the ledger knows.
runs.dataset = {dataset} and runs.superseded_by is null and (not runs.is_atomic or runs.published_at is not null)

-- name: since
-- The time since when the rows of runs are awaited in a table: etl retention may have removed all rows of earlier runs.
coalesce((select emptied_at from etl.partitioned_facts where fact = {fact}), '-infinity')

-- name: holds_rows
-- Return whether a table holds any row.
select exists (select from {table});

-- name: count_loaded
-- Count the runs that loaded rows into a table, and these rows.
select count(distinct runs.run), coalesce(sum(batches.rows[{place}]), 0)::bigint
from etl.runs join etl.batches on batches.run = runs.run
where {is_live} and batches.rows[{place}] > 0 and runs.started_at > {since};

-- name: forget
-- Let the runs whose rows are gone from the tables count no more, and their pending failures be loaded with their
-- sources again: a run that no other run has superseded supersedes itself.
with forgotten as (
    update etl.runs set superseded_by = number
    where {is_live} and exists (
        select from etl.batches where batches.run = runs.run and batches.count_loaded > 0
        offset 0 -- one search in the index for each run
    )
    returning run
)
update etl.failures set state = 'superseded' where state = 'pending' and run in (select run from forgotten);

-- name: forget_digests
-- Let no record be the same as that of a row.
update {table} set etl_digest = null where etl_digest is not null;

-- name: counts_of_run
-- Return what the ledger has of a run: its records in batches, those up to its last mark, the refused ones in batches
-- and in failures.
select
    runs.mode,
    runs.finished_at is not null as is_finished,
    coalesce((select sum(count_records) from etl.batches where batches.run = runs.run), 0)::bigint as records,
    coalesce((select max(last_record) from etl.marks where marks.run = runs.number), 0)::bigint as marked,
    coalesce(
        (select sum(coalesce(count_rejected, 0) + coalesce(count_failed, 0)) from etl.batches where batches.run = runs.run),
        0
    )::bigint as refused,
    coalesce(
        (select sum(count_records) from etl.failures where failures.run = runs.run and failures.state <> 'replayed'), 0
    )::bigint as stored
from etl.runs
where runs.run = %(run)s;

-- name: run_without_marks
-- Find a run of a dataset that loaded records, and by whose marks no source would be recognised. A stretch of a stream
-- is known by its place, and a run of a group has its marks beside it. By the views the planner would compare each run with
-- all of them.
select runs.run, runs.mode
from etl.runs
where runs.dataset = %(dataset)s and runs.superseded_by is null and runs.stream is null
    and runs.batch_records is null
    and not exists (select from etl.separate_marks where separate_marks.run = runs.number)
    and not exists (select from etl.first_batches where first_batches.run = runs.number)
    and exists (select from etl.separate_batches b where b.run = runs.run and b.count_loaded > 0)
order by runs.number
limit 1;

-- name: loaded_before
-- List runs that loaded records of a source before, those with most of them first: runs that the forced run of the source
-- superseded, and others of which it shares so many records.
select runs.number, sum(least(batches.count_loaded, %(records)s - batches.first_record + 1))::bigint as loaded
from etl.runs join etl.batches on batches.run = runs.run
where (runs.superseded_by = %(forced)s or runs.number = any(%(others)s)) and runs.number <> %(forced)s
    and (not runs.is_atomic or runs.published_at is not null)
    and batches.first_record <= %(records)s and batches.count_loaded > 0
group by runs.number
order by loaded desc;

-- name: has_rows_of
-- Return whether a table has a row of a run.
select exists (select from {table} where etl_run = {number});

-- name: unknown_run
-- Return the number of a run that has rows in a table and that the ledger does not know. Only the beginning of the table
-- is looked at, and `also`.
with held as (
    (select etl_run from {table} limit {most})
    {also}
)
select etl_run
from (select distinct etl_run from held) as found
where etl_run is not null and not exists (select from etl.runs where runs.number = found.etl_run)
order by etl_run
limit 1;

-- name: last_rows
-- Add the rows in the last blocks of a table.
union all
(
    select etl_run from {table}
    where ctid >= (select ('(' || greatest(pg_relation_size({name}::regclass) / 8192 - 100, 0) || ',0)')::tid)
    limit {most}
)

-- name: has_blocks
-- Return whether rows are in the blocks of the table itself: it is no view, no foreign table and not partitioned.
select relkind = 'r' from pg_class where oid = %(name)s::regclass;
