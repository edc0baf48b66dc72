-- Streams: events that programs send, loaded as they come. A run takes a stretch of a stream, and is known by its place.

create table etl.streams (
    stream text primary key,
    dataset text not null,
    loaded_to bigint not null default 0,
    count_events bigint not null default 0,
    run text references etl.runs on delete set null,
    begun_at timestamptz not null default now(),
    loaded_at timestamptz
);

comment on table etl.streams is 'one row per stream: the events of one dataset and day, in the order of their acceptance';
comment on column etl.streams.stream is 'name of the stream: dataset, when it began (UTC) and a random suffix';
comment on column etl.streams.dataset is 'name of the dataset definition';
comment on column etl.streams.loaded_to is 'byte of the stream up to which every event is in a table or in the failed store; moved by the transaction that loads a group';
comment on column etl.streams.count_events is 'events before that byte';
comment on column etl.streams.run is 'run that takes the next group';
comment on column etl.streams.begun_at is 'when its first group was loaded';
comment on column etl.streams.loaded_at is 'when its last group was loaded';

alter table etl.runs add column stream text;

create index runs_stream_idx on etl.runs (stream, number) where stream is not null;

comment on column etl.runs.stream is 'stream of which the run takes a stretch: it is known by its place and never by its content; null: a file or another source';
