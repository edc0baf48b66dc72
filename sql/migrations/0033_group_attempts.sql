-- The runs of a group of small files share one attempt: most of what an attempt says is the same for all of them.

create table etl.group_attempts (
    number integer generated always as identity primary key,
    started_at timestamptz not null default now(),
    ended_at timestamptz not null,
    host text not null,
    os_user text not null,
    pid integer not null,
    folder text,
    options text not null,
    tool_version text not null
);

comment on table etl.group_attempts is 'one row per group of small files that one transaction loaded: the only attempt of each of their runs';
comment on column etl.group_attempts.number is 'number of the group';
comment on column etl.group_attempts.started_at is 'start of the transaction';
comment on column etl.group_attempts.ended_at is 'when all their batches were recorded';
comment on column etl.group_attempts.host is 'machine that ran the loader';
comment on column etl.group_attempts.os_user is 'account that ran the loader';
comment on column etl.group_attempts.pid is 'process of the loader on that machine';
comment on column etl.group_attempts.folder is 'working folder of the command; null: it does not exist any more';
comment on column etl.group_attempts.options is 'options of the command that decide about the runs';
comment on column etl.group_attempts.tool_version is 'version of the loader';

-- Without a foreign key: a row of the group is never deleted, and the check would cost a search for each file.
alter table etl.runs
    add column group_attempt integer,
    add column bytes_after integer;

comment on column etl.runs.group_attempt is 'number of the group of small files with which the run was loaded; null: its attempts are in etl.attempts';
comment on column etl.runs.bytes_after is 'bytes of the decompressed source after its batch, for a run of a group';

create view etl.all_attempts as
select
    run, attempt, started_at, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid, source,
    folder, options, tool_version, rows_deleted, rows_kept, seconds_before
from etl.attempts
union all
select
    r.run, 1, g.started_at, g.ended_at, 0::smallint, b.count_records::bigint, 0, b."offset" + b.bytes + r.bytes_after,
    g.host, g.os_user, g.pid, null::text, g.folder, g.options, g.tool_version, null::bigint[], null::bigint[],
    null::double precision
from etl.runs r
join etl.group_attempts g on g.number = r.group_attempt
left join etl.batches b on b.run = r.run;

comment on view etl.all_attempts is 'the rows of etl.attempts, and one row for each run of etl.group_attempts';
do $$
declare
    described record;
begin
    for described in
        select attname, col_description(attrelid, attnum) as meaning
        from pg_attribute
        where attrelid = 'etl.attempts'::regclass and attnum > 0 and not attisdropped
    loop
        execute format('comment on column etl.all_attempts.%I is %L', described.attname, described.meaning);
    end loop;
end
$$;

-- The number of the run is of use to an undo alone; without it, equal entries of the index take little space.
drop index etl.runs_versions_idx;
create index runs_versions_idx on etl.runs (versions_of) where versions_of is not null;
