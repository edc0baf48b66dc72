-- Times in the future, apart from the newest time of the facts: one wrong year would make an aggregate look fresh.

alter table etl.refreshes add column future_event_at timestamptz;

comment on column etl.refreshes.newest_event_at is 'newest time in its facts up to the refresh, from the column that its head names';
comment on column etl.refreshes.future_event_at is 'newest time in its facts that was in the future at the refresh; null: none';

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
    ) as rejected_pending,
    refreshes.future_event_at
from etl.aggregates
left join etl.refreshes on refreshes.aggregate = aggregates.aggregate;

comment on column analytics.freshness.newest_event_at is 'newest time in its facts up to the refresh, such as the creation of a shipment';
comment on column analytics.freshness.future_event_at is 'newest time in its facts that was in the future at the refresh, which may be an error of the data; null: none';

comment on column etl.batches.policies is 'records changed by policies: without their NUL characters (nul_stripped), with the key of an earlier record of the source (duplicates); the unknown members (unknown); and for each column the texts that it does not store as they are written (coerced); null: none';
