-- name: begin_stream
-- Enter a stream, unless it is known.
insert into etl.streams (stream, dataset) values (%(stream)s, %(dataset)s) on conflict (stream) do nothing;

-- name: position
-- Return how far a stream is loaded, and the run that takes its next group.
select s.stream, s.dataset, s.loaded_to, s.count_events, s.run, s.loaded_at from etl.streams s where s.stream = %(stream)s;

-- name: positions
-- List the streams of a dataset, or of all, the newest last.
select s.stream, s.dataset, s.loaded_to, s.count_events, s.run, s.loaded_at
from etl.streams s
where %(dataset)s::text is null or s.dataset = %(dataset)s
order by s.begun_at, s.stream;

-- name: newest_streams
-- List the newest streams, and how many of their events wait in the failed store for a replay.
select
    s.stream, s.dataset, s.loaded_to, s.count_events, s.run, s.loaded_at,
    (
        select coalesce(sum(f.count_records), 0)::bigint
        from etl.runs r
        join etl.failures f using (run)
        where r.stream = s.stream and f.state = 'pending'
    ) as count_refused
from etl.streams s
order by s.begun_at desc, s.stream
limit %(limit)s;

-- name: lock_position
-- Lock how far a stream is loaded until the end of the transaction.
select s.loaded_to from etl.streams s where s.stream = %(stream)s for update;

-- name: run_of_stream
-- Return the run that takes the next group of a stream, unless another run has to take it: in a merge the run with the
-- largest number of its dataset and of its table wins. A run of another definition or mode ends with it. Of two streams at
-- once, a column says which event is newer, if the dataset has one; otherwise they take turns.
select r.run, r.number
from etl.streams s
join etl.runs r on r.run = s.run
where s.stream = %(stream)s and r.superseded_by is null and r.undone_at is null
    and r.mode = %(mode)s and r.definition_hash = %(definition_hash)s
    and not (
        r.mode = 'merge' and exists (
            select from etl.runs later
            where later.number > r.number and (later.dataset = r.dataset or later.versions_of = r.versions_of)
                and (later.stream is null or %(newest_by)s::text is null)
        )
    );

-- name: open_run
-- Enter a run that takes a stretch of a stream. It is finished at once: between two groups nothing of it is in work.
with opened as (
    insert into etl.runs (
        run, dataset, source, source_bytes, definition_hash, mode, is_atomic, is_forced, is_within, stream, finished_at,
        unknown_of
    )
    values (
        %(run)s, %(dataset)s, %(stream)s, %(loaded_to)s, %(definition_hash)s, %(mode)s, false, false, false, %(stream)s,
        clock_timestamp(), %(unknown_of)s
    )
    returning run, number
),
moved as (
    update etl.streams set run = opened.run from opened where streams.stream = %(stream)s
)
select number from opened;

-- name: open_attempt
-- Enter an attempt of a run of a stream. It counts as ended after each group.
insert into etl.attempts (
    run, attempt, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid, source, folder, options,
    tool_version
)
select
    %(run)s, coalesce(max(attempt), 0) + 1, clock_timestamp(), 0, 0, 0, 0, %(host)s, %(os_user)s, %(pid)s, %(source)s,
    %(folder)s, %(options)s, %(tool_version)s
from etl.attempts
where run = %(run)s
returning attempt;

-- name: move_position
-- Note that a group of a stream is loaded.
update etl.streams
set loaded_to = %(end)s, count_events = count_events + %(count)s, loaded_at = clock_timestamp()
where stream = %(stream)s;

-- name: note_group
-- Add a group to the attempt that loaded it.
update etl.attempts
set
    ended_at = clock_timestamp(), count_read = count_read + %(count)s, bytes_read = bytes_read + %(bytes)s,
    exit_code = greatest(exit_code, %(exit_code)s)
where run = %(run)s and attempt = %(attempt)s;

-- name: finish_group
-- Note the end of the last group of a run, and notify the listeners.
with finished as (
    update etl.runs
    set
        finished_at = clock_timestamp(), source_bytes = %(end)s,
        unknown_of = case when %(has_unknown)s then %(definition)s else coalesce(unknown_of, 0) end
    where run = %(run)s
    returning dataset
)
select pg_notify('etl_runs', dataset) from finished;

-- name: batch_of_place
-- Return the batch that has the event at a place of a stream.
select
    r.run, b."offset", b."offset" + b.bytes as "end", coalesce(b.count_rejected, 0) + coalesce(b.count_failed, 0) as refused, b.loaded_at,
    r.undone_at is not null as is_undone
from etl.runs r
join etl.batches b using (run)
where r.stream = %(stream)s and b."offset" <= %(offset)s and b."offset" + b.bytes > %(offset)s
order by b."offset" desc
limit 1;

-- name: failures_of_batch
-- List the files of the failed store that keep records of a batch.
select id, run, dataset, kind, state from etl.failures where run = %(run)s and batch >= %(offset)s and batch < %(end)s order by created_at desc, id;

-- name: known_keys
-- Return the requests of a dataset with these keys whose events were loaded at once.
select k.key, k.body, k.stream, k."offset", k.lengths
from etl.event_keys k
where k.dataset = %(dataset)s and k.key = any(%(keys)s);

-- name: enter_key
-- Note a request whose events are loaded by this transaction, unless another one has noted its key.
insert into etl.event_keys (dataset, key, body, stream, "offset", lengths)
values (%(dataset)s, %(key)s, %(body)s, %(stream)s, %(offset)s, %(lengths)s)
on conflict (dataset, key) do nothing;

-- name: forget_keys
-- Remove the requests of a dataset that are older than so many seconds.
delete from etl.event_keys k where k.dataset = %(dataset)s and k.accepted_at < now() - make_interval(secs => %(seconds)s);
