-- Buckets of a week and of an hour: triggers note hours, a pending bucket is a time, an unknown kind is an error.

alter table etl.touched add column hours timestamp[];

comment on column etl.touched.hours is 'the hours (UTC) of the changed rows, where an hour is noted';

-- `db migrate` replaces this function by one with the kinds that the installation knows.
create function etl.bucket_of(kind text, noted timestamp) returns timestamp
language plpgsql
immutable
strict
parallel safe
as $bucket$
begin
    if kind not in ('hour', 'day', 'week', 'month') then
        raise exception 'unknown bucket kind % in etl.aggregates', kind using errcode = 'undefined_object';
    end if;
    if noted not between timestamp '4713-01-01 BC' and timestamp '290000-12-31' then
        return null;
    end if;
    return pg_catalog.date_trunc(kind, noted);
end;
$bucket$;

comment on function etl.bucket_of is 'first instant (UTC) of the bucket of a noted time; null: all buckets';

-- The function above checks the kinds, so that a new kind needs no migration.
alter table etl.aggregates drop constraint aggregates_bucket_check;

comment on column etl.aggregates.bucket is 'what is recomputed as one: an hour, a day, a week, a month, or all';

-- A column that a view reads cannot get another type. Replacing the view keeps its grants and the views that read it.
create or replace view analytics.freshness as
select
    aggregates.aggregate,
    refreshes.refreshed_at,
    refreshes.run,
    refreshes.facts_through,
    refreshes.newest_event_at,
    refreshes.buckets,
    refreshes.rows,
    refreshes.seconds,
    refreshes.mode,
    null::bigint as pending_buckets,
    null::bigint as rejected_pending
from etl.aggregates
left join etl.refreshes on refreshes.aggregate = aggregates.aggregate;

alter table etl.pending alter column bucket type timestamp;

comment on column etl.pending.bucket is 'first instant (UTC) of the bucket; null: all buckets';

create or replace view analytics.freshness as
select
    aggregates.aggregate,
    refreshes.refreshed_at,
    refreshes.run,
    refreshes.facts_through,
    refreshes.newest_event_at,
    refreshes.buckets,
    refreshes.rows,
    refreshes.seconds,
    refreshes.mode,
    (
        select count(*)
        from (
            select pending.bucket
            from etl.pending
            where pending.aggregate = aggregates.aggregate
            union
            select etl.bucket_of(aggregates.bucket, times.noted)
            from etl.watches
            join etl.touched on touched.fact = watches.fact and coalesce(touched.noted = watches.noted, true)
            -- The refresh finds the buckets of a noted key. Until then they count as one.
            left join lateral (
                -- A date can be later than any timestamp.
                select least(days.day, date '294276-12-31')::timestamp as noted
                from unnest(touched.days) as days (day)
                union all
                select hours.hour
                from unnest(touched.hours) as hours (hour)
            ) as times on true
            where watches.aggregate = aggregates.aggregate
        ) as buckets
    ) as pending_buckets,
    (
        select coalesce(sum(failures.count_records), 0)::bigint
        from etl.failures
        where failures.state = 'pending' and failures.dataset = any(aggregates.datasets)
    ) as rejected_pending
from etl.aggregates
left join etl.refreshes on refreshes.aggregate = aggregates.aggregate;
