-- name: runs_to_pack
-- List the runs of this age that are done and have several batches or attempts. Left out are runs with records that wait,
-- runs that are known by their batches, and those that an older version has left unfinished.
select r.run
from etl.runs r
where r.finished_at <= now() - %(age)s::interval
    and (not r.is_atomic or r.published_at is not null)
    and (%(dataset)s::text is null or r.dataset = %(dataset)s)
    and not exists (select from etl.failures where failures.run = r.run and failures.state = 'pending')
    and not exists (select from etl.first_batches where first_batches.run = r.number)
    and exists (
        select from etl.batches where batches.run = r.run having count(*) > 1 and max(loaded_at) <= now() - %(age)s::interval
        union all
        select from etl.attempts where attempts.run = r.run having count(*) > 1
    )
order by r.number;

-- name: is_packable
-- Return whether nothing of a finished run waits, now that no load holds it.
select r.finished_at is not null and not exists (
    select from etl.failures where failures.run = r.run and failures.state = 'pending'
)
from etl.runs r
where r.run = %(run)s;

-- name: batches_of_run
-- List the batches of a run in the order of the source, each with the number of replaces that were published before it.
select
    b."offset", b.bytes as length, b.first_record, b.count_records, b.hash, b.count_loaded, b.count_rejected, b.count_failed, b.rows,
    b.policies, b.rows_replaced, b.count_unchanged, b.count_deleted, b.part_offsets, b.parts,
    (b.loaded_at at time zone 'UTC')::date as day,
    (
        select count(*) from etl.runs p
        where p.dataset = r.dataset and p.mode = 'replace' and p.published_at < b.loaded_at
    ) as count_replaces
from etl.batches b
join etl.runs r using (run)
where b.run = %(run)s
order by b.first_record;

-- name: pack
-- Let the first of some consecutive batches take the place of all of them.
update etl.separate_batches
set
    bytes = %(bytes)s, count_records = %(count_records)s, hash = '', count_loaded = %(count_loaded)s,
    count_rejected = %(count_rejected)s, count_failed = %(count_failed)s, rows = %(rows)s, policies = %(policies)s,
    rows_replaced = %(rows_replaced)s, count_unchanged = %(count_unchanged)s, count_deleted = %(count_deleted)s,
    part_offsets = %(part_offsets)s, parts = %(parts)s
where run = %(run)s and "offset" = %(offset)s;

-- name: remove_batches
-- Remove batches of a run whose place another one has taken.
delete from etl.separate_batches where run = %(run)s and "offset" = any(%(offsets)s);

-- name: pack_attempts
-- Let the newest attempt of a run take the place of all of them, with their seconds and their rows that a replace deleted
-- and kept; return how many were removed. An attempt whose process died ended with the last batch.
with ended as (
    select
        attempt, started_at, rows_deleted, rows_kept, seconds_before,
        coalesce(
            ended_at, (select max(loaded_at) from etl.batches where batches.run = %(run)s), started_at
        ) as ended_at,
        attempt = max(attempt) over () as is_newest
    from etl.attempts
    where run = %(run)s
),
sums as (
    select
        extract(epoch from sum(ended_at - started_at) filter (where not is_newest))::double precision
            + coalesce(sum(seconds_before), 0) as seconds,
        (
            select array_agg(total order by place) from (
                select place, sum(count)::bigint from ended, unnest(rows_deleted) with ordinality as t (count, place)
                group by place
            ) as each (place, total)
        ) as rows_deleted,
        (
            select array_agg(total order by place) from (
                select place, sum(count)::bigint from ended, unnest(rows_kept) with ordinality as t (count, place)
                group by place
            ) as each (place, total)
        ) as rows_kept
    from ended
),
removed as (
    delete from etl.attempts
    where run = %(run)s and attempt in (select attempt from ended where not is_newest)
    returning attempt
),
packed as (
    update etl.attempts
    set seconds_before = sums.seconds, rows_deleted = sums.rows_deleted, rows_kept = sums.rows_kept
    from sums
    where run = %(run)s and attempt = (select attempt from ended where is_newest)
        and exists (select from ended where not is_newest)
)
select count(*) from removed;
