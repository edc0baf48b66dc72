-- The version of an aggregate: readers that keep its rows learn from it, and from a notification, that rows changed.

alter table etl.refreshes add column version bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint;

comment on column etl.refreshes.version is 'rises only when rows changed, by at least 1, and to at least the milliseconds since 1970: no version of a table comes twice, not even after it was made again or restored from a backup';

-- A notification is sent at the commit, so its receiver sees the rows of the version.
create function etl.announce_version() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $announce$
begin
    perform pg_notify(
        'etl_versions',
        json_build_object('aggregate', coalesce(new.aggregate, old.aggregate), 'version', new.version)::text
    );
    return null;
end;
$announce$;

comment on function etl.announce_version() is 'Notify the channel etl_versions of the new version of an aggregate; null: its table is made again';
revoke all on function etl.announce_version() from public;

create trigger etl_announce_new after insert or delete on etl.refreshes
for each row execute function etl.announce_version();
create trigger etl_announce_changed after update of version on etl.refreshes
for each row when (new.version is distinct from old.version) execute function etl.announce_version();

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
left join etl.refreshes on refreshes.aggregate = aggregates.aggregate;

comment on column analytics.freshness.version is 'rises only when rows of the aggregate changed; null: never computed';

create table etl.api_keys (
    id text primary key,
    digest bytea not null unique,
    label text not null,
    role text not null check (role in ('analyst', 'operator', 'admin')),
    created_at timestamptz not null default now(),
    created_by text not null default session_user,
    expires_at timestamptz,
    revoked_at timestamptz
);

comment on table etl.api_keys is 'one row per key of the service (etl serve --auth keys); the key itself is stored nowhere.';
comment on column etl.api_keys.id is 'name of the key in commands and logs';
comment on column etl.api_keys.digest is 'SHA-256 of the key, which has 256 random bits';
comment on column etl.api_keys.label is 'who or what uses the key';
comment on column etl.api_keys.role is 'what the key may do: analyst reads aggregates, operator also runs and failures, admin everything';
comment on column etl.api_keys.created_at is 'when the key was made';
comment on column etl.api_keys.created_by is 'user of the database who made the key';
comment on column etl.api_keys.expires_at is 'end of the validity of the key; null: it does not expire';
comment on column etl.api_keys.revoked_at is 'when the key was revoked; null: it was not';

create table etl.api_tokens (
    digest bytea primary key,
    key_id text not null references etl.api_keys (id) on delete cascade,
    issued_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz
);

comment on table etl.api_tokens is 'one row per refresh token of the service that was issued for a key; a token is used once.';
comment on column etl.api_tokens.digest is 'SHA-256 of the refresh token';
comment on column etl.api_tokens.key_id is 'key for which the token was issued (etl.api_keys.id)';
comment on column etl.api_tokens.issued_at is 'when the token was issued';
comment on column etl.api_tokens.expires_at is 'end of the validity of the token';
comment on column etl.api_tokens.used_at is 'when the token was exchanged for the next one; null: it was not';

create index on etl.api_tokens (key_id);

-- A revoked key ends at once in every service that has looked it up.
create function etl.announce_key() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $announce$
begin
    perform pg_notify('etl_api_keys', coalesce(new.id, old.id));
    return null;
end;
$announce$;

comment on function etl.announce_key() is 'Notify the channel etl_api_keys that a key was made, changed or removed';
revoke all on function etl.announce_key() from public;

create trigger etl_announce_key after insert or update or delete on etl.api_keys
for each row execute function etl.announce_key();
