-- The ledger: which run brought which batch of which source into which tables, and what was refused.

create schema if not exists etl;
create schema if not exists logistics;
create schema if not exists analytics;
create schema if not exists etl_staging;

comment on schema etl is 'the ledger: runs, attempts, batches and failures';
comment on schema logistics is 'the facts, one table for each table of a dataset definition';
comment on schema etl_staging is 'rows of atomic runs that are not visible yet';
comment on schema analytics is 'the aggregates and their freshness';

-- Roles belong to the whole server and may be there, or may be denied to the owner of one database:
-- then an administrator creates them and grants again by `etl db migrate`.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['etl_loader', 'etl_analyst'] loop
        begin
            execute format('create role %I nologin', wanted);
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'role % is missing and may not be created by %', wanted, current_user;
        end;
    end loop;
end;
$$;

create table etl.runs (
    run text primary key,
    number bigint generated always as identity unique,
    dataset text not null,
    source text not null,
    head_sha256 text not null,
    head_bytes integer not null,
    source_bytes bigint,
    definition_hash text not null,
    mode text not null,
    is_atomic boolean not null,
    is_forced boolean not null,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    published_at timestamptz,
    published_xact xid8
);

create index runs_source_idx on etl.runs (dataset, head_sha256);

comment on table etl.runs is 'one row per run: one source brought into one dataset, from the first attempt to the end';
comment on column etl.runs.run is 'name of the run: when it began (UTC) and a random suffix';
comment on column etl.runs.number is 'order of the runs; etl_run of the rows that it loaded';
comment on column etl.runs.dataset is 'name of the dataset definition';
comment on column etl.runs.source is 'name of the source as the first attempt was given it';
comment on column etl.runs.head_sha256 is 'sha256 of the first head_bytes bytes of the decompressed source';
comment on column etl.runs.head_bytes is 'how many bytes head_sha256 covers, at most 1 MiB';
comment on column etl.runs.source_bytes is 'size of the source as stored, in bytes, where it is known';
comment on column etl.runs.definition_hash is 'digest of the definition and of the options that decide which rows a record becomes';
comment on column etl.runs.mode is 'append, merge or replace';
comment on column etl.runs.is_atomic is 'true when nothing is visible before all of it is';
comment on column etl.runs.is_forced is 'true when the source was loaded again by --force';
comment on column etl.runs.started_at is 'begin of the first attempt';
comment on column etl.runs.finished_at is 'when the source was read to its end and every batch entered; null: not finished';
comment on column etl.runs.published_at is 'when the staged rows of an atomic run became visible';
comment on column etl.runs.published_xact is 'transaction that published them';

create table etl.attempts (
    run text not null references etl.runs,
    attempt integer not null,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    exit_code smallint,
    count_read bigint,
    count_retried integer,
    bytes_read bigint,
    host text not null,
    os_user text not null,
    pid integer not null,
    primary key (run, attempt)
);

comment on table etl.attempts is 'one row per attempt of a run: the first, and each resume';
comment on column etl.attempts.run is 'run that it belongs to';
comment on column etl.attempts.started_at is 'begin of the attempt';
comment on column etl.attempts.attempt is 'number of the attempt, from 1';
comment on column etl.attempts.ended_at is 'end of the attempt; null while it goes on or when it was killed';
comment on column etl.attempts.exit_code is 'exit code that the attempt told';
comment on column etl.attempts.count_read is 'records read, those skipped included';
comment on column etl.attempts.count_retried is 'tries of a batch beyond its first';
comment on column etl.attempts.bytes_read is 'bytes of the decompressed source that were read';
comment on column etl.attempts.host is 'machine that ran the loader';
comment on column etl.attempts.os_user is 'account that ran the loader';
comment on column etl.attempts.pid is 'process of the loader on that machine';

create table etl.batches (
    run text not null references etl.runs,
    "offset" bigint not null,
    bytes integer not null,
    first_record bigint not null,
    count_records integer not null,
    hash bytea not null,
    attempt integer not null,
    count_loaded integer,
    count_rejected integer,
    count_failed integer,
    rows bigint[],
    loaded_at timestamptz not null default now(),
    xact xid8 not null default pg_current_xact_id(),
    primary key (run, "offset")
);

create index batches_xact_idx on etl.batches (xact);

comment on table etl.batches is 'one row per batch, entered by the transaction that loads it';
comment on column etl.batches.run is 'run that it belongs to';
comment on column etl.batches."offset" is 'byte at which the batch begins in the decompressed source';
comment on column etl.batches.bytes is 'length of the batch in the decompressed source, in bytes';
comment on column etl.batches.first_record is 'number of its first record in the source, from 1';
comment on column etl.batches.count_records is 'records in the batch';
comment on column etl.batches.hash is 'xxh3-128 of its bytes';
comment on column etl.batches.attempt is 'attempt that entered it';
comment on column etl.batches.count_loaded is 'records loaded, as COPY counted them';
comment on column etl.batches.count_rejected is 'records rejected by the data checks';
comment on column etl.batches.count_failed is 'records of a failed batch';
comment on column etl.batches.rows is 'rows sent by COPY for each table of the dataset, in its order';
comment on column etl.batches.loaded_at is 'begin of the transaction that entered it';
comment on column etl.batches.xact is 'that transaction';

create table etl.failures (
    id text primary key,
    run text not null references etl.runs,
    dataset text not null,
    source text not null,
    batch bigint not null,
    kind text not null check (kind in ('rejected', 'failed')),
    state text not null default 'pending' check (state in ('pending', 'replayed', 'discarded', 'superseded')),
    created_at timestamptz not null default now(),
    attempts integer not null default 1,
    parent text references etl.failures,
    note text,
    sha256 text not null,
    count_records integer not null,
    sqlstate text,
    message text
);

create index failures_run_idx on etl.failures (run);
create index failures_pending_idx on etl.failures (dataset) where state = 'pending';

comment on table etl.failures is 'one row per file of the failed store; the truth about its state';
comment on column etl.failures.id is 'name of the file without its ending';
comment on column etl.failures.run is 'run that the records belong to';
comment on column etl.failures.dataset is 'dataset of that run';
comment on column etl.failures.source is 'source of that run';
comment on column etl.failures.created_at is 'begin of the transaction that entered it';
comment on column etl.failures.batch is 'offset of the batch that the records belong to';
comment on column etl.failures.kind is 'rejected: can never load as it is; failed: could not load although the data may be fine';
comment on column etl.failures.state is 'pending, replayed, discarded or superseded';
comment on column etl.failures.attempts is 'how often its records were tried';
comment on column etl.failures.parent is 'failure that these records were split off from by a replay';
comment on column etl.failures.note is 'reason given by the operator who discarded it';
comment on column etl.failures.sha256 is 'digest of the .ndjson file as written';
comment on column etl.failures.count_records is 'records in the file';
comment on column etl.failures.sqlstate is 'SQLSTATE of the first fault';
comment on column etl.failures.message is 'the fault in a sentence, without any value of the data';
