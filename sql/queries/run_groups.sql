-- name: begin_group
-- Enter the only attempt of several runs, and return its number with new numbers for the runs: their rows have them, and
-- the runs are entered after their rows, with all that the server counted.
with attempted as (
    insert into etl.group_attempts (ended_at, host, os_user, pid, folder, options, tool_version)
    values (clock_timestamp(), %(host)s, %(os_user)s, %(pid)s, %(folder)s, %(options)s, %(tool_version)s)
    returning number
)
select attempted.number, nextval(pg_get_serial_sequence('etl.runs', 'number'))
from attempted
cross join generate_series(1, %(count)s);

-- name: enter_runs
-- Enter the runs of several whole sources, each with its only batch and all its marks.
insert into etl.runs (
    run, number, dataset, source, source_bytes, source_time_ns, definition_hash, mode, is_atomic, is_forced, is_within,
    versions_of, unknown_of, finished_at, group_attempt, bytes_after, batch_offset, batch_bytes, batch_records, batch_hash,
    batch_rows, batch_policies, batch_rows_replaced, mark_anchor, mark_parent, mark_hashes, mark_places
)
overriding system value
select
    each.run, each.number, %(dataset)s, each.source, each.source_bytes, each.time, %(definition_hash)s, %(mode)s, false,
    false, false, %(versions_of)s, each.unknown_of, clock_timestamp(), %(attempt)s, each.bytes_after, each.batch_offset,
    each.bytes, each.count_records, each.hash, each.rows, each.policies::jsonb, each.rows_replaced, each.anchor,
    each.parent, each.hashes::bigint[], each.places
from unnest(
    %(runs)s::text[], %(numbers)s::bigint[], %(sources)s::text[], %(source_bytes)s::bigint[], %(times)s::bigint[],
    %(unknown_of)s::bigint[], %(bytes_after)s::integer[], %(offsets)s::integer[], %(bytes)s::integer[],
    %(counts)s::integer[], %(batch_hashes)s::bytea[], %(rows)s::text[], %(policies)s::text[], %(rows_replaced)s::integer[],
    %(anchor)s::bigint[], %(parent)s::bigint[], %(hashes)s::text[], %(places)s::bytea[]
) as each (
    run, number, source, source_bytes, time, unknown_of, bytes_after, batch_offset, bytes, count_records, hash, rows,
    policies, rows_replaced, anchor, parent, hashes, places
);

-- name: end_attempt
-- Enter the end of the attempt of a group.
update etl.group_attempts set ended_at = clock_timestamp() where number = %(number)s;

-- name: notify
-- Notify the listeners that runs of a dataset are finished.
select pg_notify('etl_runs', %(dataset)s);

-- name: loaded_of_runs
-- Return the loaded records of each of some finished runs of a group.
select run, batch_records from etl.runs where number = any(%(numbers)s) and finished_at is not null;
