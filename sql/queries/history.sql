-- name: runs
-- List the matching runs, the newest first, with their status and the counts of their records.
select *
from (
    select
        r.number, r.run, r.dataset, coalesce(a.source, r.source) as source, s.status, r.mode, r.started_at, r.finished_at, a.ended_at,
        a.attempt as attempts, a.exit_code, a.host, a.os_user, a.pid, a.tool_version, a.folder, a.options,
        b.records, b.loaded, b.unchanged, b.rejected, b.failed, b.deleted, d.rows_deleted, d.rows_kept, b.batches, p.pending, b.bytes, t.seconds,
        case when t.seconds > 0 then round((b.records / t.seconds)::numeric, 1)::double precision end as records_per_second,
        b.last_batch_at, r.undone_at, r.undone_by,
        case when r.undone_at is not null then (
            select coalesce(sum(count), 0)::bigint from unnest(r.rows_undone) as undone (count)
        ) end as rows_undone
    from etl.runs r
    left join lateral (
        select * from etl.all_attempts where run = r.run order by attempt desc limit 1
    ) a on true
    cross join lateral (
        select coalesce(sum(count_records), 0)::bigint as pending
        from etl.failures where run = r.run and state = 'pending'
    ) p
    cross join lateral (
        select case
            when r.undone_at is not null then 'undone'
            when a.ended_at is null and exists (
                select from pg_locks l join pg_stat_activity holder using (pid)
                where l.locktype = 'advisory' and l.granted and holder.application_name = 'etl:' || r.run
                    and holder.datname = current_database()
            ) then 'running'
            when r.finished_at is not null and (not r.is_atomic or r.published_at is not null)
            then case when p.pending > 0 then 'loaded_with_rejects' else 'loaded' end
            when a.ended_at is null then 'died'
            when a.exit_code = 5 then 'aborted'
            when a.exit_code = 6 then 'busy'
            else 'incomplete'
        end as status
    ) s
    cross join lateral (
        select
            coalesce(sum(count_records), 0)::bigint as records,
            coalesce(sum(count_loaded), 0)::bigint as loaded,
            coalesce(sum(count_unchanged), 0)::bigint as unchanged,
            coalesce(sum(count_rejected), 0)::bigint as rejected,
            coalesce(sum(count_failed), 0)::bigint as failed,
            sum(count_deleted)::bigint as deleted,
            coalesce(sum(coalesce(cardinality(part_offsets), 1)), 0)::bigint as batches,
            coalesce(sum(bytes), 0)::bigint as bytes,
            max(loaded_at) as last_batch_at
        from etl.batches where run = r.run
    ) b
    cross join lateral (
        select
            coalesce(sum(t.deleted), 0)::bigint as rows_deleted,
            coalesce(sum(t.kept), 0)::bigint as rows_kept
        from etl.all_attempts attempt, unnest(attempt.rows_deleted, attempt.rows_kept) as t (deleted, kept)
        where attempt.run = r.run
    ) d
    cross join lateral (
        -- A process that died entered no end: the time of its last batch takes the place of the end.
        select extract(epoch from sum(
            coalesce(
                attempt.ended_at, case when s.status = 'running' then clock_timestamp() else b.last_batch_at end,
                attempt.started_at
            ) - attempt.started_at
        ))::double precision + coalesce(sum(attempt.seconds_before), 0) as seconds
        from etl.all_attempts attempt where attempt.run = r.run
    ) t
    where (%(run)s::text is null or r.run = %(run)s)
        and (%(dataset)s::text is null or r.dataset = %(dataset)s)
        and (%(status)s::text is null or s.status = %(status)s)
        and (%(since)s::timestamptz is null or r.started_at >= %(since)s)
        and (%(before)s::bigint is null or r.number < %(before)s)
) as listed
where {conditions}
order by number desc
limit %(limit)s;

-- name: newest_run
-- Return the name of the newest run, or of the newest of a dataset.
select run from etl.runs where %(dataset)s::text is null or dataset = %(dataset)s order by number desc limit 1;

-- name: attempts
-- List the attempts of a run.
select
    attempt, attempts.started_at, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid,
    coalesce(attempts.source, runs.source) as source, folder, options, tool_version
from etl.all_attempts as attempts
join etl.runs using (run)
where run = %(run)s
order by attempt;

-- name: faults
-- Count the refused records of a run by their fault, the most frequent fault first.
select
    f.kind, f.state, coalesce(w.sqlstate, f.sqlstate) as sqlstate, w.table_name as table, w.column_name as column,
    coalesce(w.reason, f.message) as reason, sum(coalesce(w.count_records, f.count_records))::bigint as count_records,
    (array_agg(w.first_record order by w.first_record))[1] as first_record,
    (array_agg(w.first_offset order by w.first_record))[1] as first_offset
from etl.failures f
left join etl.faults w on w.failure = f.id
where f.run = %(run)s
group by 1, 2, 3, 4, 5, 6
order by count_records desc, first_record, reason;

-- name: faults_of_failures
-- Count the refused records of some files by their fault, the most frequent fault first.
select
    coalesce(w.sqlstate, f.sqlstate) as sqlstate, w.table_name as table, w.column_name as column,
    coalesce(w.reason, f.message) as reason, sum(coalesce(w.count_records, f.count_records))::bigint as count_records
from etl.failures f
left join etl.faults w on w.failure = f.id
where f.id = any (%(ids)s)
group by 1, 2, 3, 4
order by count_records desc, reason;

-- name: trace
-- Return the batches of the rows of a table that meet these conditions.
select
    runs.run, runs.dataset, coalesce(attempts.source, runs.source) as source, attempts.folder, attempts.options,
    batches.loaded_at, batches."offset", batches.bytes as length, batches.first_record, batches.count_records, batches.hash,
    r.etl_place as place, r.etl_batch as batch, batches.part_offsets, batches.parts
from (select distinct etl_run, etl_batch, etl_place from {table} r where {conditions} limit {limit}) r
left join etl.runs on runs.number = r.etl_run
left join lateral (
    select * from etl.batches
    where batches.run = runs.run and (batches."offset" = r.etl_batch or r.etl_batch = any(batches.part_offsets))
    offset 0 -- one search in the index for each row: in a join the planner would read all rows of the view
) as batches on true
left join lateral (
    -- Where earlier attempts were removed, the next one speaks for them.
    select source, folder, options
    from etl.all_attempts as attempts
    where attempts.run = runs.run and attempts.attempt >= batches.attempt
    order by attempts.attempt
    limit 1
) as attempts on true
order by r.etl_run, r.etl_batch, r.etl_place;
