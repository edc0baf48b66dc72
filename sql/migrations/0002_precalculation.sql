-- How fresh each aggregate is: written by the transaction that refreshes it, shown to analysts by a view.

create table etl.refreshes (
    aggregate text primary key,
    definition_hash text not null,
    refreshed_at timestamptz not null,
    run text,
    mode text not null check (mode in ('full')),
    rows bigint not null,
    seconds numeric not null,
    snapshot pg_snapshot not null
);

comment on table etl.refreshes is 'one row per aggregate that was ever refreshed, entered by the transaction that refreshed it';
comment on column etl.refreshes.aggregate is 'name of the aggregate: its table in schema analytics';
comment on column etl.refreshes.definition_hash is 'digest of the SQL that computed it';
comment on column etl.refreshes.refreshed_at is 'begin of the refresh: what was committed before is in';
comment on column etl.refreshes.run is 'run that asked for the refresh; null: an operator did';
comment on column etl.refreshes.mode is 'full: all buckets were recomputed';
comment on column etl.refreshes.rows is 'rows of the aggregate after the refresh';
comment on column etl.refreshes.seconds is 'how long the refresh took';
comment on column etl.refreshes.snapshot is 'snapshot of the facts that it saw: a later batch is not in it';

create view analytics.freshness as
select
    aggregate,
    refreshed_at,
    run,
    rows,
    seconds,
    mode
from etl.refreshes;

comment on view analytics.freshness is 'One row per aggregate that was ever refreshed: the facts that it equals, and since when';
comment on column analytics.freshness.aggregate is 'name of the aggregate: its table in schema analytics';
comment on column analytics.freshness.refreshed_at is 'begin of the refresh: what was committed before is in';
comment on column analytics.freshness.run is 'run that asked for the refresh; null: an operator did';
comment on column analytics.freshness.rows is 'rows of the aggregate after the refresh';
comment on column analytics.freshness.seconds is 'how long the refresh took';
comment on column analytics.freshness.mode is 'full: all buckets were recomputed';
