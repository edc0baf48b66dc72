-- name: lock
-- Take the session lock of the refresh of one aggregate, however long another refresh holds it.
select
    set_config('lock_timeout', '0', true),
    pg_advisory_lock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: try_locks
-- Take the session locks of the refreshes of aggregates that no other session refreshes; return the names of these.
select asked.aggregate
from unnest(%(aggregates)s::text[]) as asked (aggregate)
where pg_try_advisory_lock(hashtextextended('etl:refresh:' || asked.aggregate, 0));

-- name: unlock_several
-- Release the session locks of the refreshes of aggregates.
select pg_advisory_unlock(hashtextextended('etl:refresh:' || aggregate, 0))
from unnest(%(aggregates)s::text[]) as locked (aggregate);

-- name: unlock
-- Release the session lock of the refresh of one aggregate.
select pg_advisory_unlock(hashtextextended('etl:refresh:' || %(aggregate)s, 0));

-- name: is_touched
-- Return whether there are noted changes of facts that are not yet pending buckets.
select exists (select from etl.touched);

-- name: lock_gathering
-- Take the session lock of turning noted changes into pending buckets.
select
    set_config('lock_timeout', '0', true),
    pg_advisory_lock(hashtextextended('etl:gather', 0));

-- name: unlock_gathering
-- Release the session lock of turning noted changes into pending buckets.
select pg_advisory_unlock(hashtextextended('etl:gather', 0));

-- name: joins
-- List how noted keys lead to rows of other tables, the aggregates that need it, and whether the key column exists.
select
    array_agg(aggregate order by aggregate),
    fact,
    noted,
    via_table,
    via_column,
    via_type,
    via_day,
    exists (select from pg_attribute where attrelid = to_regclass(via_table) and attname = via_column)
from etl.watches
where via_table is not null and (%(aggregates)s::text[] is null or aggregate = any(%(aggregates)s::text[]))
group by fact, noted, via_table, via_column, via_type, via_day
order by fact, noted, via_table, via_column, via_day;

-- name: watched_by
-- List the aggregates that watch a fact.
select distinct aggregate from etl.watches order by aggregate;

-- name: try_touched
-- Find the touched times of aggregates, and leave the notes.
with taken as (
    select fact, noted, days, hours, keys from etl.touched
)
select count(noted) from ({touched}) as touched (aggregate, noted);

-- name: untouched
-- List no touched times: no change is noted.
select null::text as aggregate, null::timestamp as noted where false

-- name: touched_as_whole
-- Add all of the aggregates whose touched times cannot be found.
union
select watches.aggregate, null
from taken
join etl.watches on watches.fact = taken.fact
where watches.aggregate = any({as_whole}::text[])

-- name: touched
-- List the touched times (UTC) of aggregates; null is all of an aggregate. An infinite time is in no bucket.
select watches.aggregate, times.noted
from taken
join etl.watches on watches.fact = taken.fact and watches.noted = taken.noted and watches.via_table is null
cross join lateral (
    select least(day, date '294276-12-31')::timestamp -- a date can be later than any timestamp
    from unnest(taken.days) as days (day)
    where isfinite(day)
    union all
    select hour
    from unnest(taken.hours) as hours (hour)
    where isfinite(hour)
) as times (noted)
union
select watches.aggregate, null
from taken
join etl.watches on watches.fact = taken.fact
where taken.noted is null or (taken.noted = '' and watches.noted = '')
{via}

-- name: touched_via
-- Add the times of the rows to which noted keys lead.
union
select unnest({aggregates}::text[]), least(times.noted, date '294276-12-31')::timestamp
from (
    select {day}
    from {table}
    where {column} in (
        select unnest(taken.keys)::{type} from taken where taken.fact = {fact} and taken.noted = {noted}
    )
) as times (noted)
where isfinite(times.noted)

-- name: touched_via_missing
-- Add all of an aggregate where the table is missing to which noted keys led: no other aggregate waits for it.
union
select unnest({aggregates}::text[]), null
from taken
where taken.fact = {fact} and taken.noted = {noted}

-- name: buckets
-- List the buckets that were touched; null is all of an aggregate.
select distinct touched.aggregate, etl.bucket_of(aggregates.bucket, touched.noted) as bucket
from touched
join etl.aggregates on aggregates.aggregate = touched.aggregate

-- name: note_lost_partitions
-- Make the aggregates pending whose facts lost a partition by hand.
select etl.note_lost_partitions();

-- name: gather
-- Turn noted changes into pending buckets of the aggregates that read the facts.
with taken as (
    delete from etl.touched returning fact, noted, days, hours, keys
),
touched as (
    {touched}
)
insert into etl.pending (aggregate, bucket)
{buckets};

-- name: take_pending
-- Take the pending buckets of an aggregate.
delete from etl.pending where aggregate = {aggregate} returning bucket

-- name: see_pending
-- Return the pending buckets of an aggregate and leave them.
select bucket from etl.pending where aggregate = {aggregate}

-- name: due
-- List the ranges of buckets that this snapshot knows as changed: the first, the first after them (null, null: all), how
-- many, and the seconds of the range and from the first range to the last.
with taken as (
    select fact, noted, days, hours, keys from etl.touched
),
touched as (
    {touched}
),
pending as (
    {pending}
),
changed as (
    select bucket from pending
    union
    select noted.bucket from ({buckets}) as noted where noted.aggregate = {aggregate}
),
followed as (
    select bucket, bucket + {step} as next, lag(bucket + {step}) over (order by bucket) = bucket as follows
    from changed
),
numbered as (
    select bucket, next, count(*) filter (where follows is not true) over (order by bucket) as number
    from followed
)
select
    min(bucket)::{type}::text as first,
    max(next)::{type}::text as until,
    count(*)::integer as buckets,
    coalesce(extract(epoch from max(next) - min(bucket)), 0) as seconds,
    coalesce(extract(epoch from max(max(next)) over () - min(min(bucket)) over ()), 0) as seconds_of_all
from numbered
group by number
order by min(bucket) nulls first;

-- name: pages
-- Return the size of tables and their partitions, in pages of 8 KiB.
select coalesce(sum(pg_relation_size(part.oid)), 0)::bigint / 8192
from unnest(%(tables)s::text[]) as fact (name)
cross join lateral (
    select fact.name::regclass
    union
    select relid from pg_partition_tree(fact.name::regclass) where isleaf
) as part (oid);

-- name: is_known
-- Return whether an aggregate was refreshed before by this definition.
select exists (
    select from etl.refreshes where aggregate = %(aggregate)s and definition_hash = %(definition_hash)s
);

-- name: plan_for_readers
-- Leave the other processors to readers: in parallel a refresh of all aggregates took 5 % less, but readers waited.
-- Pages are mostly in memory or on flash: with the default the planner reads the events of years for those of a month.
select
    set_config('max_parallel_workers_per_gather', '0', true),
    set_config('random_page_cost', '1.1', true),
    -- Of the fresh rows the planner needs the numbers of different keys alone.
    set_config('default_statistics_target', '10', true),
    -- It expects keys of several columns to repeat, which they do not: to look each up took twice as long as one hash join.
    set_config('enable_memoize', 'off', true);

-- name: begin_refresh
-- Return whether an aggregate was refreshed before by this definition, whether changes are noted that are no pending
-- buckets yet, and the instants of the transaction and of now as texts, which the server reads as the type of what they
-- are compared with.
select
    exists (select from etl.refreshes where aggregate = %(aggregate)s and definition_hash = %(definition_hash)s),
    exists (select from etl.touched),
    transaction_timestamp()::text,
    clock_timestamp()::text;

-- name: see_table
-- Check that the table of an aggregate exists and may be read.
select from {table} limit 0;

-- name: make_fresh
-- Compute buckets of an aggregate into a temporary table; an aggregate before it in the transaction has left its own.
drop table if exists pg_temp.etl_fresh;
create temporary table etl_fresh on commit drop as
{select};

-- name: add_fresh
-- Compute more buckets into the temporary table.
insert into pg_temp.etl_fresh
{select};

-- name: analyze_fresh
-- Update the statistics of the key for the planner: those of all columns took a tenth of the time of a refresh.
analyze pg_temp.etl_fresh ({key});

-- name: merge_changed
-- Insert the new rows of an aggregate and update the rows that differ; other rows are neither written nor locked.
merge into {table} as kept
using pg_temp.etl_fresh as fresh on {same_key} and ({within})
when matched and ({kept_values}) is distinct from ({fresh_values}) then
    update set {assignments}
when not matched then
    insert ({columns}) values ({fresh_columns});

-- name: has_gone
-- Return whether the recomputed buckets have more rows than were computed. To count is cheaper than to compare keys.
select
    (select count(*) from {table} as kept where {within}) > (select count(*) from pg_temp.etl_fresh);

-- name: delete_gone
-- Delete the rows of the recomputed buckets whose keys no longer exist.
delete from {table} as kept
where ({within}) and not exists (select from pg_temp.etl_fresh as fresh where {same_key});

-- name: count_buckets
-- Count the buckets that were computed.
select count(distinct {bucket})::integer from pg_temp.etl_fresh;

-- name: record_refresh
-- Record what a refresh did, in its transaction.
insert into etl.refreshes (
    aggregate, definition_hash, refreshed_at, run, mode, buckets, rows, seconds, facts_through, newest_event_at,
    future_event_at, version
)
select
    {aggregate},
    {definition_hash},
    transaction_timestamp(),
    coalesce({run}, newest.run),
    {mode},
    {buckets},
    (select count(*) from {table}),
    round(extract(epoch from clock_timestamp() - {began}::timestamptz), 3),
    newest.ended_at,
    {newest_event_at},
    {future_event_at},
    (extract(epoch from clock_timestamp()) * 1000)::bigint
from (select) as always
left join ({newest_run}) as newest on true
on conflict (aggregate) do update set
    definition_hash = excluded.definition_hash,
    refreshed_at = excluded.refreshed_at,
    run = excluded.run,
    mode = excluded.mode,
    buckets = excluded.buckets,
    rows = excluded.rows,
    seconds = excluded.seconds,
    facts_through = excluded.facts_through,
    newest_event_at = excluded.newest_event_at,
    future_event_at = excluded.future_event_at,
    version = case when {is_changed} then greatest(refreshes.version + 1, excluded.version) else refreshes.version end
returning seconds;

-- name: record_nothing_to_do
-- Record that an aggregate equals its facts already.
update etl.refreshes
set
    refreshed_at = transaction_timestamp(),
    facts_through = newest.ended_at,
    newest_event_at = {newest_event_at},
    future_event_at = {future_event_at}
from (select) as always
left join ({newest_run}) as newest on true
where refreshes.aggregate = {aggregate}
returning round(extract(epoch from clock_timestamp() - {began}::timestamptz), 3);

-- name: record_idle
-- Record that those of these aggregates equal their facts that have nothing to do. A refresh holds the lock of its
-- aggregate from before its snapshot to after its commit: what another session refreshes now is left to it, and after a
-- refresh that has just ended the times do not go back.
with idle as materialized (
    select refreshes.aggregate, refreshes.definition_hash
    from unnest(
        %(aggregates)s::text[], %(hashes)s::text[], %(newest_tables)s::text[], %(newest_columns)s::text[]
    ) as asked (aggregate, definition_hash, newest_table, newest_column)
    join etl.refreshes
        on refreshes.aggregate = asked.aggregate and refreshes.definition_hash = asked.definition_hash
    where refreshes.future_event_at is null
        and not exists (select from etl.pending where pending.aggregate = asked.aggregate)
        and not exists (
            select from etl.touched
            join etl.watches on watches.fact = touched.fact
            where watches.aggregate = asked.aggregate
        )
        and exists (
            select from pg_attribute
            where attrelid = to_regclass(asked.newest_table) and attname = asked.newest_column and not attisdropped
        )
        -- Without a table, or the right to read it, the refresh gives the reason.
        and not exists (
            select from unnest(%(readers)s::text[], %(tables)s::text[]) as needed (aggregate, name)
            where needed.aggregate = asked.aggregate
                and coalesce(has_table_privilege(to_regclass(needed.name), 'select'), false) is false
        )
),
ended as materialized (
    select
        idle.aggregate,
        idle.definition_hash,
        (
            select max(coalesce(runs.published_at, runs.finished_at))
            from etl.runs
            where runs.dataset = any(aggregates.datasets) and runs.finished_at is not null and runs.undone_at is null
        ) as newest
    from idle
    join etl.aggregates on aggregates.aggregate = idle.aggregate
)
update etl.refreshes
set
    refreshed_at = greatest(refreshes.refreshed_at, transaction_timestamp()),
    facts_through = case
        when refreshes.refreshed_at > transaction_timestamp() then refreshes.facts_through else ended.newest
    end
from ended
where refreshes.aggregate = ended.aggregate
    and refreshes.definition_hash = ended.definition_hash
    and refreshes.future_event_at is null
    and pg_try_advisory_xact_lock(hashtextextended('etl:refresh:' || ended.aggregate, 0))
returning refreshes.aggregate, round(extract(epoch from clock_timestamp() - transaction_timestamp()), 3);

-- name: newest_run
-- Return the finished run that ended last, of the datasets of an aggregate.
select runs.run, coalesce(runs.published_at, runs.finished_at) as ended_at
from etl.runs
join etl.aggregates on runs.dataset = any(aggregates.datasets)
where aggregates.aggregate = {aggregate} and runs.finished_at is not null and runs.undone_at is null
order by ended_at desc
limit 1

-- name: newest_event
-- Return the newest time of a fact that has come: a time in the future says nothing about how fresh the facts are.
(select max({column})::timestamptz from {table} where {column} <= {now})

-- name: future_event
-- Return the newest time of a fact that has not come yet.
(select max({column})::timestamptz from {table} where {column} > {now})

-- name: differences
-- List the rows in which an aggregate differs from its computation, without pending buckets, and count them.
select
    coalesce({kept_key}, {fresh_key}) as key,
    case when fresh.{first} is null then 'surplus' when kept.{first} is null then 'missing' else 'different' end,
    count(*) over ()
from (select * from {table} as kept where not ({pending})) as kept
full join (select * from pg_temp.etl_fresh as kept where not ({pending})) as fresh on {same_key}
where fresh.{first} is null or kept.{first} is null or ({kept_values}) is distinct from ({fresh_values})
order by key
limit {limit};

-- name: list_aggregates
-- List the installed aggregates with grain, bucket and freshness.
select aggregates.aggregate, aggregates.grain, aggregates.bucket, freshness.refreshed_at, freshness.pending_buckets
from etl.aggregates
join analytics.freshness on freshness.aggregate = aggregates.aggregate
order by aggregates.aggregate;

-- name: try_listener_lock
-- Try to take the lock of the one listener of the database; it ends with the connection.
select pg_try_advisory_lock(hashtextextended('etl:listen', 0));

-- name: listener
-- Return the session that holds the lock of the one listener, and whether its second session refreshes an aggregate;
-- pg_locks shows the two halves of a key as columns.
select
    holder.pid,
    coalesce(activity.application_name, '') as application,
    to_char(activity.backend_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since,
    exists (
        select from pg_locks as mark
        join pg_stat_activity as worker on worker.pid = mark.pid
        where mark.locktype = 'advisory' and mark.database = holder.database and mark.objsubid = 2
            and mark.classid::bigint = hashtext('etl:listen')::bigint & 4294967295
            and mark.objid::bigint = holder.pid
            and worker.state = 'active'
    ) as is_refreshing
from pg_locks as holder
left join pg_stat_activity as activity on activity.pid = holder.pid
where holder.locktype = 'advisory'
    and holder.granted
    and holder.database = (select oid from pg_database where datname = current_database())
    and holder.objsubid = 1
    and (holder.classid::bigint << 32) | holder.objid::bigint = hashtextextended('etl:listen', 0);

-- name: mark_worker
-- Mark the second session of the listener whose first session is this process; the mark ends with the connection.
select pg_advisory_lock(hashtext('etl:listen'), %(listener)s);

-- name: ask_listener
-- Ask the listener for an answer.
select pg_notify('etl_listener_check', %(token)s);

-- name: answer_check
-- Answer a check: this listener works.
select pg_notify('etl_listener_answer', %(token)s);

-- name: await_answer
-- Receive the answers of the listener.
listen etl_listener_answer;

-- name: listen
-- Receive a notification when a run finishes, and when a check asks; again, this proves that the server answers.
listen etl_runs;
listen etl_listener_check;
