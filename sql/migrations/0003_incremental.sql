-- Which buckets of which aggregate have to be recomputed: noted by triggers of the facts, taken by refreshes.

create table etl.aggregates (
    aggregate text primary key,
    grain text not null,
    bucket text not null check (bucket in ('day', 'month', 'all')),
    datasets text[] not null
);

comment on table etl.aggregates is 'one row per aggregate that was installed; deleting it ends the noting for its table';
comment on column etl.aggregates.aggregate is 'name of the aggregate: its table in schema analytics';
comment on column etl.aggregates.grain is 'what one row of it is';
comment on column etl.aggregates.bucket is 'what is recomputed as one: a day, a month, or all';
comment on column etl.aggregates.datasets is 'datasets that load the facts which it reads';

create table etl.watches (
    aggregate text not null references etl.aggregates on delete cascade,
    fact text not null,
    noted text not null,
    via_table text,
    via_column text,
    via_type text,
    via_day text,
    primary key (aggregate, fact, noted)
);

comment on table etl.watches is 'one row per aggregate and fact: how a changed row of the fact leads to buckets';
comment on column etl.watches.aggregate is 'aggregate that reads the fact';
comment on column etl.watches.fact is 'table whose triggers note what changes';
comment on column etl.watches.noted is 'expression over its row that is noted: a day, or a key where via_table is set; empty: only that it changed';
comment on column etl.watches.via_table is 'table whose rows with that key tell the days';
comment on column etl.watches.via_column is 'column of that table that holds the key';
comment on column etl.watches.via_type is 'type of that column';
comment on column etl.watches.via_day is 'expression over a row of that table that gives the day';

-- No unique key: two loads that touch the same day must not wait for each other.
create table etl.touched (
    fact text not null,
    noted text,
    days date[],
    keys text[]
);

-- To compress the keys would be a fifth of what noting costs a load.
alter table etl.touched alter column keys set storage external;

comment on table etl.touched is 'one row per statement that changed a fact, and per thing noted of its rows; entered by its own transaction';
comment on column etl.touched.fact is 'table that changed';
comment on column etl.touched.noted is 'what was noted, as in etl.watches; null: everything changed, by truncation';
comment on column etl.touched.days is 'the days of the changed rows, where a day is noted';
comment on column etl.touched.keys is 'the keys of the changed rows, where a key is noted';

-- No unique key either: who adds a bucket must not wait for the refresh that is taking it.
create table etl.pending (
    aggregate text not null references etl.aggregates on delete cascade,
    bucket date
);

comment on table etl.pending is 'buckets that the next refresh of their aggregate recomputes; one may stand here more than once';
comment on column etl.pending.aggregate is 'aggregate that the bucket belongs to';
comment on column etl.pending.bucket is 'day, or first day of the month; null: all of them';

-- What an aggregate had seen was known by snapshots; from here on by what is pending.
drop view analytics.freshness;
drop index etl.batches_xact_idx;
alter table etl.refreshes
    drop column snapshot,
    drop constraint refreshes_mode_check,
    add column buckets integer not null default 0,
    add column facts_through timestamptz,
    add column newest_event_at timestamptz,
    add constraint refreshes_mode_check check (mode in ('full', 'incremental'));
alter table etl.refreshes alter column buckets drop default;

comment on column etl.refreshes.refreshed_at is 'begin of the last refresh, also of one that found nothing to do: what was committed before is in';
comment on column etl.refreshes.run is 'run that asked for the last refresh that recomputed something, else the newest finished run that it saw';
comment on column etl.refreshes.mode is 'full: all buckets were recomputed; incremental: those that were touched';
comment on column etl.refreshes.buckets is 'buckets that the last refresh recomputed that had something to do';
comment on column etl.refreshes.facts_through is 'end of the newest run of its datasets that is in';
comment on column etl.refreshes.newest_event_at is 'newest time that its facts tell, by the column that its head names';

create view analytics.freshness as
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
            select
                case aggregates.bucket when 'month' then date_trunc('month', days.day)::date else days.day end
            from etl.watches
            join etl.touched on touched.fact = watches.fact and coalesce(touched.noted = watches.noted, true)
            -- Where a key was noted the days are found by the refresh: until then they count as one bucket.
            left join unnest(touched.days) as days (day) on true
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

comment on view analytics.freshness is 'One row per aggregate: how far it follows its facts, and what is still missing';
comment on column analytics.freshness.aggregate is 'name of the aggregate: its table in schema analytics';
comment on column analytics.freshness.refreshed_at is 'begin of the last refresh, also of one that found nothing to do: what was committed before is in';
comment on column analytics.freshness.run is 'run that asked for the last refresh that recomputed something, else the newest finished run that it saw';
comment on column analytics.freshness.facts_through is 'end of the newest run of its datasets that is in: complete to this instant';
comment on column analytics.freshness.newest_event_at is 'newest time that its facts tell, such as the creation of a shipment';
comment on column analytics.freshness.buckets is 'buckets that the last refresh recomputed that had something to do';
comment on column analytics.freshness.rows is 'rows of the aggregate after that refresh';
comment on column analytics.freshness.seconds is 'how long that refresh took';
comment on column analytics.freshness.mode is 'full: all buckets were recomputed; incremental: those that were touched';
comment on column analytics.freshness.pending_buckets is 'buckets that wait for the next refresh, 0 when the aggregate equals its facts; all buckets, and those still to be found by a key, count as one';
comment on column analytics.freshness.rejected_pending is 'records of its datasets that wait in the failed store';
