-- A table of an export that is repeated is registered like an aggregate: the months of its changed rows are pending until
-- the export has written them. It is no aggregate, and has no freshness.

alter table etl.aggregates add column is_export boolean not null default false;

comment on table etl.aggregates is 'one row per aggregate that was installed, and per table of a repeated export; deleting it ends the noting for it';
comment on column etl.aggregates.is_export is 'true: a table of an export (etl.exports); its pending months are those to be written again';

create table etl.exports (
    place text primary key,
    export text,
    taken_at timestamptz
);

comment on table etl.exports is 'one row per place to which an export is repeated (etl export --since-last)';
comment on column etl.exports.place is 'machine and folder of the files, or their URL without credentials';
comment on column etl.exports.export is 'the last export there whose changes are not pending any more; null: none';
comment on column etl.exports.taken_at is 'when that export read the tables';

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
    refreshes.future_event_at,
    refreshes.version
from etl.aggregates
left join etl.refreshes on refreshes.aggregate = aggregates.aggregate
where not aggregates.is_export;
