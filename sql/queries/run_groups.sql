-- name: open_runs
-- Enter the runs of several whole sources in their order, and their only attempt; their batches follow in the same
-- transaction.
with attempted as (
    insert into etl.group_attempts (ended_at, host, os_user, pid, folder, options, tool_version)
    values (clock_timestamp(), %(host)s, %(os_user)s, %(pid)s, %(folder)s, %(options)s, %(tool_version)s)
    returning number
)
insert into etl.runs (
    run, dataset, source, source_bytes, source_time_ns, definition_hash, mode, is_atomic, is_forced, is_within, versions_of,
    unknown_of, finished_at, group_attempt, bytes_after
)
select
    each.run, %(dataset)s, each.source, each.source_bytes, each.time, %(definition_hash)s, %(mode)s, false, false, false,
    %(versions_of)s, %(unknown_of)s, clock_timestamp(), attempted.number, each.bytes_after
from unnest(
    %(runs)s::text[], %(sources)s::text[], %(source_bytes)s::bigint[], %(times)s::bigint[], %(bytes_after)s::integer[]
) with ordinality as each (run, source, source_bytes, time, bytes_after, place)
cross join attempted
order by each.place
returning run, number, group_attempt;

-- name: end_attempt
-- Enter the end of the attempt of a group.
update etl.group_attempts set ended_at = clock_timestamp() where number = %(number)s;

-- name: enter_batches
-- Enter the only batch of each run, as COPY counted the rows of all of them.
insert into etl.batches (
    run, "offset", bytes, first_record, count_records, hash, attempt, count_loaded, count_rejected, count_failed, rows,
    policies, rows_replaced
)
select
    each.run, each."offset", each.bytes, 1, each.count_records, each.hash, 1, each.count_loaded, 0, 0,
    each.rows::bigint[], each.policies::jsonb, each.rows_replaced
from unnest(
    %(runs)s::text[], %(offsets)s::bigint[], %(bytes)s::integer[], %(counts)s::integer[], %(hashes)s::bytea[],
    %(loaded)s::integer[], %(rows)s::text[], %(policies)s::text[], %(rows_replaced)s::bigint[]
) as each (run, "offset", bytes, count_records, hash, count_loaded, rows, policies, rows_replaced);

-- name: note_unknown
-- Enter that records of these runs have unknown members.
update etl.runs set unknown_of = %(definition)s where run = any(%(runs)s);

-- name: notify
-- Notify the listeners that runs of a dataset are finished.
select pg_notify('etl_runs', %(dataset)s);

-- name: loaded_of_runs
-- Return the loaded records of each of some finished runs.
select runs.run, sum(batches.count_loaded)::bigint
from unnest(%(runs)s::text[]) as wanted (run)
cross join lateral (
    select run from etl.runs where runs.run = wanted.run and finished_at is not null
    offset 0 -- one search in the index for each run, whatever the statistics say
) as runs
cross join lateral (
    select count_loaded from etl.batches where batches.run = runs.run
    offset 0
) as batches
group by runs.run;
