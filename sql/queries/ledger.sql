-- name: known_runs
-- Return runs by their numbers.
select
    run, number, definition_hash, mode, is_atomic, is_forced, is_within,
    finished_at is not null and (not is_atomic or published_at is not null) as is_finished
from etl.runs
where number = any(%(numbers)s)
order by number;

-- name: has_other_definition
-- Return whether a run of a dataset is unfinished that began under none of these definitions.
select exists (
    select from etl.runs
    where dataset = %(dataset)s and superseded_by is null and definition_hash <> all(%(hashes)s)
        and (finished_at is null or (is_atomic and published_at is null))
);

-- name: complete_runs
-- Return those of some runs whose source is loaded, with all that a look at the source returns, and of which the ledger
-- lacks nothing. A run of a group is asked for by itself: its row has its batch and its last mark.
select number, run, definition_hash, marked as records, pending
from (
    select
        runs.number,
        runs.run,
        runs.definition_hash,
        coalesce(
            runs.batch_records, (select max(last_record) from etl.separate_marks as marks where marks.run = runs.number)
        ) as marked,
        coalesce(
            runs.batch_records, (select sum(count_records) from etl.separate_batches as batches where batches.run = runs.run)
        ) as entered,
        case when runs.batch_records is null then (
            select sum(coalesce(count_rejected, 0) + coalesce(count_failed, 0))
            from etl.separate_batches as batches
            where batches.run = runs.run
        ) end as refused,
        coalesce(
            (select sum(count_records) from etl.failures where failures.run = runs.run and failures.state = 'pending'), 0
        )::bigint as pending,
        (
            select sum(count_records) from etl.failures where failures.run = runs.run and failures.state <> 'replayed'
        ) as stored
    from unnest(%(numbers)s::bigint[]) as wanted (number)
    cross join lateral (
        select * from etl.runs where runs.number = wanted.number
        offset 0 -- one search in the index for each run, whatever the statistics say
    ) as runs
    where runs.finished_at is not null and (not runs.is_atomic or runs.published_at is not null)
        and runs.superseded_by is null and not runs.is_within
) as found
where entered >= marked and coalesce(refused, 0) = coalesce(stored, 0);

-- name: enter_known
-- Enter that a command found sources loaded already.
insert into etl.known_sources (
    dataset, count_sources, count_records, bytes_read, host, os_user, pid, folder, options, tool_version
)
values (
    %(dataset)s, %(sources)s, %(records)s, %(bytes_read)s, %(host)s, %(os_user)s, %(pid)s, %(folder)s, %(options)s,
    %(tool_version)s
);

-- name: is_newest_replace
-- Return whether a published replace is the last load of its dataset: nothing was loaded since.
select not exists (
    select from etl.runs later
    where later.dataset = r.dataset and later.number > r.number
        and (later.published_at is not null or (
            not later.is_atomic and exists (select from etl.batches b where b.run = later.run offset 0)
        ))
) and not exists (
    select from etl.runs other
    join etl.batches b on b.run = other.run
    where other.dataset = r.dataset and other.number < r.number and b.loaded_at > r.published_at and not other.is_atomic
)
from etl.runs r
where r.number = %(number)s;

-- name: record_ranges
-- List the records of a run that are loaded, rejected or failed: the first and the last of each batch.
select first_record, first_record + count_records - 1 from etl.batches where run = %(run)s order by first_record;

-- name: database_id
-- Return what tells this database from each copy that a dump or a template makes of it.
select
    (select system_identifier from pg_control_system()) || '/' || (
        select oid from pg_database where datname = current_database()
    );

-- name: runs_of_ledger
-- List all runs with their datasets.
select dataset, run from etl.runs order by number;

-- name: open_run
-- Enter a new run.
insert into etl.runs (
    run, dataset, source, source_bytes, definition_hash, mode, on_duplicate, is_atomic, is_forced, is_within
)
values (
    %(run)s, %(dataset)s, %(source)s, %(source_bytes)s, %(definition_hash)s, %(mode)s, %(on_duplicate)s,
    %(is_atomic)s, %(is_forced)s, %(is_within)s
)
returning number;

-- name: supersede_runs
-- Note that a run takes the place of others, and that their pending failures must not be replayed.
with superseded as (
    update etl.runs set superseded_by = %(number)s where number = any(%(numbers)s) returning run
)
update etl.failures set state = 'superseded' where state = 'pending' and run in (select run from superseded);

-- name: separate_run
-- Enter the first attempt, the batch and the marks of a run by themselves, if the run was loaded with a group. Each part
-- reads the run as it was before this statement.
with separated as (
    update etl.runs set
        group_attempt = null, bytes_after = null, batch_offset = null, batch_bytes = null, batch_records = null,
        batch_rows_replaced = null, batch_hash = null, batch_rows = null, batch_policies = null,
        mark_anchor = null, mark_parent = null, mark_hashes = null, mark_places = null
    where run = %(run)s and group_attempt is not null
    returning run, number
),
batch as (
    insert into etl.separate_batches
    select batches.*
    from separated
    join etl.batches using (run)
    on conflict (run, "offset") do nothing
),
marked as (
    insert into etl.separate_marks
    select marks.*
    from separated
    join etl.marks on marks.run = separated.number
    on conflict (run, last_record) do nothing
)
insert into etl.attempts (
    run, attempt, started_at, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid, folder, options,
    tool_version
)
select
    run, attempt, started_at, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid, folder, options,
    tool_version
from separated
join etl.all_attempts using (run);

-- name: open_attempt
-- Enter a further attempt of a run; its number is that of no batch, though attempts may have been deleted.
insert into etl.attempts (run, attempt, host, os_user, pid, source, folder, options, tool_version)
select
    %(run)s,
    greatest(coalesce(max(attempt), 0), (select max(attempt) from etl.batches where run = %(run)s)) + 1,
    %(host)s, %(os_user)s, %(pid)s,
    %(source)s, %(folder)s, %(options)s, %(tool_version)s
from etl.attempts
where run = %(run)s
returning attempt;

-- name: is_overtaken
-- Return whether this attempt is obsolete: another load continued the run, or another run took its place.
select
    exists (select from etl.attempts where run = %(run)s and attempt > %(attempt)s)
    or exists (select from etl.runs where run = %(run)s and superseded_by is not null);

-- name: close_attempt
-- Enter the end of an attempt. That of a finished run does not wait for the disk: the run itself is on it.
update etl.attempts
set
    ended_at = clock_timestamp(),
    exit_code = %(exit_code)s,
    count_read = %(read)s,
    count_retried = %(retried)s,
    bytes_read = %(bytes_read)s
from (
    select set_config(
        'synchronous_commit',
        case when %(exit_code)s in (0, 1) then 'off' else current_setting('synchronous_commit') end,
        true
    ) as flush
) as commit
where run = %(run)s and attempt = %(attempt)s and commit.flush is not null;

-- name: ranges
-- List the batches of a run.
select "offset", bytes as length, count_records as count, first_record, hash
from etl.batches
where run = %(run)s
order by "offset";

-- name: claim_batch
-- Claim a batch before its COPY: wait for another transaction that claimed it, and do nothing if that one committed.
insert into etl.separate_batches (run, "offset", bytes, first_record, count_records, hash, attempt)
values (%(run)s, %(offset)s, %(bytes)s, %(first_record)s, %(count)s, %(hash)s, %(attempt)s)
on conflict (run, "offset") do nothing;

-- name: entered_batch
-- Return the result of a batch that this attempt of its run entered with the same bytes.
select count_loaded as loaded, count_rejected as rejected, count_failed as failed, rows, count_deleted as deleted,
    rows_replaced, coalesce(count_unchanged, 0) as unchanged
from etl.batches
where run = %(run)s and "offset" = %(offset)s and attempt = %(attempt)s and count_records = %(count)s
    and hash = %(hash)s and count_loaded is not null;

-- name: lock_failing
-- Let one batch of a run at a time become a failed batch; the lock ends with the transaction.
select pg_advisory_xact_lock(hashtextextended('etl:failing:' || %(run)s, 0));

-- name: are_failing
-- Return whether the batches of a run that were entered last failed, so many of them.
select count(*) = %(number)s and bool_and(count_failed > 0) as are_failing
from (
    select count_failed from etl.batches where run = %(run)s and "offset" <> %(offset)s order by xact desc limit %(number)s
) as latest;

-- name: enter_batch
-- Enter the result of a claimed batch, as COPY counted it.
update etl.separate_batches
set count_loaded = %(loaded)s, count_rejected = %(rejected)s, count_failed = %(failed)s, rows = %(rows)s,
    policies = %(policies)s, rows_replaced = %(rows_replaced)s, count_unchanged = %(unchanged)s,
    count_deleted = %(deleted)s
where run = %(run)s and "offset" = %(offset)s;

-- name: enter_failure
-- Enter a file of the failed store.
insert into etl.failures (
    id, run, dataset, source, batch, kind, attempts, parent, sha256, count_records, sqlstate, message
)
values (
    %(id)s, %(run)s, %(dataset)s, %(source)s, %(batch)s, %(kind)s, %(attempts)s, %(parent)s, %(sha256)s,
    %(count)s, %(sqlstate)s, %(message)s
);

-- name: enter_faults
-- Enter the faults of the records of a file of the failed store, one row for each fault.
insert into etl.faults (
    failure, sqlstate, table_name, column_name, reason, count_records, first_record, first_offset
)
select %(id)s, *
from unnest(
    %(sqlstates)s::text[], %(tables)s::text[], %(columns)s::text[], %(reasons)s::text[], %(counts)s::integer[],
    %(first_records)s::bigint[], %(first_offsets)s::bigint[]
);

-- name: finish_run
-- Note that a source was read to its end and every batch of it is entered, and notify the listeners.
with finished as (
    update etl.runs
    set
        finished_at = clock_timestamp(), source_bytes = %(source_bytes)s,
        source_time_ns = coalesce(%(time)s, source_time_ns), compares = null,
        unknown_of = case
            when unknown_of is not null then unknown_of
            when exists (select from etl.batches b where b.run = runs.run and b.policies ? 'unknown') then %(definition)s
            else 0
        end
    where run = %(run)s
    returning dataset
)
select pg_notify('etl_runs', dataset) from finished;

-- name: publish_run
-- Note that this transaction makes the rows of an atomic run visible, and how many older versions it wrote over.
update etl.runs
set
    published_at = clock_timestamp(),
    published_xact = pg_current_xact_id(),
    rows_replaced = case when published_at is null then 0 else rows_replaced end + %(rows_replaced)s
where run = %(run)s;

-- name: note_deletions
-- Note the rows of each table that an attempt deleted by a replace, and those that it kept for rejected records.
update etl.attempts set rows_deleted = %(rows_deleted)s, rows_kept = %(rows_kept)s
where run = %(run)s and attempt = %(attempt)s;

-- name: deletions
-- Return the rows of each table that an attempt deleted by a replace, and those that it kept for rejected records.
select coalesce(rows_deleted, array[]::bigint[]) as rows_deleted, coalesce(rows_kept, array[]::bigint[]) as rows_kept
from etl.attempts
where run = %(run)s and attempt = %(attempt)s;

-- name: reopen_run
-- Note that a finished run continues: its source grew.
update etl.runs set finished_at = null, unknown_of = nullif(unknown_of, 0) where run = %(run)s;

-- name: balance
-- Add up the records and the batches of an attempt.
select
    coalesce(sum(count_loaded) filter (where attempt = %(attempt)s), 0)::bigint as loaded,
    coalesce(sum(count_rejected) filter (where attempt = %(attempt)s), 0)::bigint as rejected,
    coalesce(sum(count_failed) filter (where attempt = %(attempt)s), 0)::bigint as failed,
    coalesce(sum(count_unchanged) filter (where attempt = %(attempt)s), 0)::bigint as unchanged,
    (sum(count_deleted) filter (where attempt = %(attempt)s))::bigint as deleted,
    count(*) filter (where attempt = %(attempt)s and count_failed = 0) as batches_loaded,
    count(*) filter (where attempt = %(attempt)s and count_failed > 0) as batches_failed
from etl.batches
where run = %(run)s;

-- name: rows_of_attempt
-- Add up the rows that COPY counted for each table, in the order of the dataset's tables.
select t.place, sum(t.count)::bigint
from etl.batches b, unnest(b.rows) with ordinality as t (count, place)
where b.run = %(run)s and b.attempt = %(attempt)s
group by t.place
order by t.place;

-- name: policies_of_attempt
-- Add up the effects of policies on the records of an attempt, and count the texts of each column that it does not
-- store as they are written.
select
    coalesce(sum((policies ->> 'nul_stripped')::bigint), 0)::bigint as nul_stripped,
    coalesce(sum((policies ->> 'duplicates')::bigint), 0)::bigint as duplicates,
    (
        select jsonb_object_agg(name, count)
        from (
            select name, sum(count::bigint)::bigint
            from etl.batches b, jsonb_each_text(b.policies -> 'coerced') as coerced (name, count)
            where b.run = %(run)s and b.attempt = %(attempt)s
            group by name
        ) as sums (name, count)
    ) as coerced
from etl.batches
where run = %(run)s and attempt = %(attempt)s;

-- name: unknown_members
-- Count the records of a run that have each unknown member. Of very many names the shortest are returned, as each batch
-- entered them; the counts of the others are added up.
with entered as (
    select policies
    from etl.batches
    -- An older version entered names without counts, as an array.
    where run = %(run)s and jsonb_typeof(policies -> 'unknown') = 'object'
),
ranked as (
    select
        name,
        sum(count::bigint)::bigint as count,
        row_number() over (order by length(name), name collate "C") <= %(most)s as is_named
    from entered, jsonb_each_text(policies -> 'unknown') as members (name, count)
    group by name
)
select
    coalesce(jsonb_object_agg(name, count) filter (where is_named), jsonb_build_object()) as unknown,
    (
        coalesce(sum(count) filter (where not is_named), 0)
        + (select coalesce(sum((policies ->> 'unknown_others')::bigint), 0) from entered)
    )::bigint as unknown_others
from ranked;

-- name: pending_of_run
-- Count the pending records of a run in the failed store.
select coalesce(sum(count_records), 0)::bigint as pending from etl.failures where run = %(run)s and state = 'pending';

-- name: run_state
-- Return whether a run is finished, and published if it is atomic.
select finished_at is not null and (not is_atomic or published_at is not null) from etl.runs where run = %(run)s;

-- name: failures_list
-- List the files of the failed store, the newest last, after the one with this time and id.
select id, run, dataset, source, batch, kind, state, created_at, attempts, parent, note, count_records, sqlstate, message
from etl.failures
where (%(id)s::text is null or id = %(id)s)
    and (%(runs)s::text[] is null or run = any (%(runs)s))
    and (%(dataset)s::text is null or dataset = %(dataset)s)
    and (%(state)s::text is null or state = %(state)s)
    and (%(after_time)s::timestamptz is null or (created_at, id) > (%(after_time)s, %(after)s::text))
    and {conditions}
order by created_at, id
limit %(limit)s;

-- name: supersede_replaced
-- A replace removed the rows of the other runs, also of those that began after it and were loaded while it was
-- interrupted: it takes their place, and their pending failures must not be replayed.
with superseded as (
    update etl.runs r
    set superseded_by = now.number
    from etl.runs now
    where now.run = %(run)s and r.dataset = now.dataset and r.number <> now.number and r.superseded_by is null
    returning r.run
)
update etl.failures set state = 'superseded' where state = 'pending' and run in (select run from superseded);

-- name: totals
-- Add up the records of a run over all its attempts.
select
    coalesce(sum(count_records), 0)::bigint as records,
    coalesce(sum(count_rejected), 0)::bigint as rejected
from etl.batches
where run = %(run)s;

-- name: loaded_of_run
-- Count the loaded records of a run over all its attempts.
select coalesce(sum(count_loaded), 0)::bigint as loaded from etl.batches where run = %(run)s;

-- name: staged_of_run
-- List the batches of an atomic run that are not published yet, with their rows in each staging table; null where an
-- older version did not count them.
select b."offset", case
    when b.policies ? 'kept_rows' then array(select jsonb_array_elements_text(b.policies -> 'kept_rows')::bigint)
    when r.on_duplicate is distinct from 'first' or not coalesce(b.policies ? 'duplicates', false) then b.rows
end as rows
from etl.batches b
join etl.runs r using (run)
where run = %(run)s and (r.published_at is null or b.loaded_at > r.published_at)
order by b."offset";

-- name: batches_with_refused
-- List the batches of a run that have records which did not load.
select "offset" from etl.batches where run = %(run)s and coalesce(count_rejected, 0) + coalesce(count_failed, 0) > 0;

-- name: withdraw_batches
-- Remove batches of an atomic run that are not published, given by their offsets, with their failures.
select etl.withdraw_batches(%(run)s, %(batches)s);

-- name: claim_replay
-- Claim a failure: wait for another replay of it, and update nothing if that one committed.
update etl.failures set state = 'replayed' where id = %(id)s and state = 'pending';

-- name: enter_replay
-- Move the counts of a batch from refused to the result of the replay, and notify the listeners.
with entered as (
    update etl.separate_batches
    set
        count_loaded = count_loaded + %(loaded)s,
        count_rejected = count_rejected - %(was_rejected)s + %(rejected)s,
        count_failed = count_failed - %(was_failed)s + %(failed)s,
        rows = array(
            select coalesce(a, 0) + coalesce(b, 0)
            from unnest(rows, %(rows)s::bigint[]) with ordinality as t (a, b, place)
            order by place
        ),
        rows_replaced = rows_replaced + %(rows_replaced)s,
        count_deleted = coalesce(count_deleted + %(deleted)s, count_deleted, %(deleted)s),
        xact = pg_current_xact_id()
    where run = %(run)s and "offset" = %(offset)s
    returning run
)
select pg_notify('etl_runs', dataset) from etl.runs join entered using (run);

-- name: rest_of_failure
-- List the pending failures that were split off from a failure by its replays, or by theirs.
with recursive split_off as (
    select id from etl.failures where id = %(id)s
    union
    select failures.id from split_off join etl.failures on failures.parent = split_off.id
)
select failures.id
from etl.failures
join split_off using (id)
where failures.state = 'pending'
order by failures.created_at, failures.id;

-- name: discard
-- Note that a failure will never be replayed, and why, and notify the listeners.
with discarded as (
    update etl.failures set state = 'discarded', note = %(note)s where id = %(id)s and state = 'pending'
    returning dataset
)
select pg_notify('etl_runs', dataset) from discarded;

-- name: run_for_replay
-- Return what a replay needs of a run.
select
    run, number, dataset, source, mode, on_duplicate, is_atomic,
    not is_atomic or (published_at is not null and finished_at is not null) as is_visible
from etl.runs
where run = %(run)s;

-- name: first_record
-- Return the number of the first record of a batch.
select first_record from etl.batches where run = %(run)s and "offset" = %(offset)s;

-- name: lock
-- Take a session lock, and wait for its holder. The lock ends with the connection.
select pg_advisory_lock(%(key)s);

-- name: lock_shared
-- Take a shared session lock, and wait for an exclusive holder. The lock ends with the connection.
select pg_advisory_lock_shared(%(key)s);

-- name: try_lock
-- Take a session lock if it is free. The lock ends with the connection.
select pg_try_advisory_lock(%(key)s);

-- name: try_lock_shared
-- Take a shared session lock if no exclusive holder has it. The lock ends with the connection.
select pg_try_advisory_lock_shared(%(key)s);

-- name: lock_in_transaction
-- Take a lock that ends with the transaction, and wait for its holder.
select pg_advisory_xact_lock(%(key)s);

-- name: try_lock_in_transaction
-- Take a lock that ends with the transaction if it is free.
select pg_try_advisory_xact_lock(%(key)s);

-- name: try_lock_shared_in_transaction
-- Take a shared lock that ends with the transaction if no exclusive holder has it.
select pg_try_advisory_xact_lock_shared(%(key)s);

-- name: unlock
-- Release a session lock.
select pg_advisory_unlock(%(key)s);

-- name: lock_holders
-- Return the session that holds a lock, and when it began.
select a.application_name, a.backend_start
from pg_locks l
join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted and l.pid <> pg_backend_pid() and l.database = (
    select oid from pg_database where datname = current_database()
)
    and (l.classid::bigint << 32) + l.objid::bigint = %(key)s and l.objsubid = 1
order by a.backend_start
limit 1;

-- name: is_entered
-- Return whether the ledger has an attempt of a run by a process.
select exists (
    select from etl.attempts where run = %(run)s and attempt = %(attempt)s and host = %(host)s and pid = %(pid)s
);

-- name: locks_of_sessions
-- Return whether one of these sessions still holds a lock of a load.
select exists (
    select from pg_locks where locktype = 'advisory' and granted and pid = any(%(backends)s::integer[])
);

-- name: newest_runs
-- List the names of the newest runs, for shell completion.
select run from etl.runs order by number desc limit %(limit)s;

-- name: pending_failures
-- List the ids of pending failures, for shell completion.
select id from etl.failures where state = 'pending' order by id;

-- name: settled_failures
-- List the old failures that are not pending any more.
select id, dataset, run, state, count_records
from etl.failures
where state <> 'pending' and created_at <= now() - %(age)s::interval
    and (%(dataset)s::text is null or dataset = %(dataset)s)
order by created_at, id;

-- name: note_comparing
-- Enter that a run may leave unchanged records as they are.
select etl.note_comparing(%(run)s, %(table)s);

-- name: has_versions
-- Return whether a run was opened that writes digests into a table.
select exists (select from etl.runs where versions_of = %(table)s);

-- name: may_have_unknown
-- Return whether a record with a digest by this definition may have members that no column takes.
select exists (
    select from etl.runs
    where versions_of = %(table)s and unknown_of is distinct from 0 and coalesce(unknown_of = %(definition)s, true)
);

-- name: note_unexamined
-- Enter that a run does not look for members that no column takes.
update etl.runs set unknown_of = %(definition)s where run = %(run)s;

-- name: note_not_comparing
-- Enter that a run writes every record.
update etl.runs set versions_of = %(table)s, compares = null
where run = %(run)s and (versions_of, compares) is distinct from (%(table)s, null);
