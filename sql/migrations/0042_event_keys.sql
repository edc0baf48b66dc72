-- Requests with an Idempotency-Key whose events are loaded at once: their places, so that a repetition adds nothing.

create table etl.event_keys (
    dataset text not null,
    key text not null,
    body text not null,
    stream text not null,
    "offset" bigint not null,
    lengths integer[] not null,
    accepted_at timestamptz not null default now(),
    primary key (dataset, key)
);

create index event_keys_accepted_at_idx on etl.event_keys (dataset, accepted_at);

comment on table etl.event_keys is 'one row per request with an Idempotency-Key whose events etl collect --direct has loaded; removed after a while';
comment on column etl.event_keys.dataset is 'name of the dataset definition';
comment on column etl.event_keys.key is 'digest of the key';
comment on column etl.event_keys.body is 'digest of the events of the request';
comment on column etl.event_keys.stream is 'stream of the events';
comment on column etl.event_keys."offset" is 'byte of the stream at which the first event begins';
comment on column etl.event_keys.lengths is 'bytes of each event, with its line feed';
comment on column etl.event_keys.accepted_at is 'when the events were loaded';
