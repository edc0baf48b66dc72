-- A command that finds several sources loaded already enters one row for all of them, and no attempt for each.

create table etl.known_sources (
    number bigint generated always as identity primary key,
    dataset text not null,
    ended_at timestamptz not null default now(),
    count_sources integer not null,
    count_records bigint not null,
    bytes_read bigint not null,
    host text not null,
    os_user text not null,
    pid integer not null,
    folder text,
    options text not null,
    tool_version text not null
);

comment on table etl.known_sources is 'one row per command that found several sources loaded already, and looked them up together';
comment on column etl.known_sources.number is 'order of the rows';
comment on column etl.known_sources.dataset is 'name of the dataset definition';
comment on column etl.known_sources.ended_at is 'when they were looked up';
comment on column etl.known_sources.count_sources is 'sources that were loaded already';
comment on column etl.known_sources.count_records is 'their records';
comment on column etl.known_sources.bytes_read is 'their bytes as stored';
comment on column etl.known_sources.host is 'machine that ran the loader';
comment on column etl.known_sources.os_user is 'account that ran the loader';
comment on column etl.known_sources.pid is 'process of the loader on that machine';
comment on column etl.known_sources.folder is 'working folder of the command; null: it does not exist any more';
comment on column etl.known_sources.options is 'options of the command that decide about the runs';
comment on column etl.known_sources.tool_version is 'version of the loader';
