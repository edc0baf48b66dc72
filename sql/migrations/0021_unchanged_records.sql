-- A merge leaves a record that is loaded already in the same version as it is, and enters that it was seen.

alter table etl.runs
    add column versions_of text,
    add column compares text;
alter table etl.batches add column count_unchanged integer;

create index runs_versions_idx on etl.runs (versions_of, number) where versions_of is not null;
create index runs_compares_idx on etl.runs (compares, number) where compares is not null;
create index runs_unfinished_idx on etl.runs (number) where finished_at is null and superseded_by is null;

comment on column etl.runs.versions_of is 'table in which the run takes part in the order of versions; null: none, or opened by an older version';
comment on column etl.runs.compares is 'table in which the run may leave unchanged records as they are, until it is finished; null: none';
comment on column etl.batches.count_unchanged is 'records of count_loaded whose row was left as it is, because it was loaded from the same record before; null: entered by an older version, none';

create table etl.seen (
    table_name text not null,
    run bigint not null,
    batch bigint not null,
    digests bigint[] not null,
    primary key (table_name, run, batch)
);

-- Digests do not shrink, and an attempt to compress them costs more than to write them.
alter table etl.seen alter column digests set storage external;

comment on table etl.seen is 'one row per batch that left records unchanged: each was seen at its place, and no version from before that place may replace its row';
comment on column etl.seen.table_name is 'table of the records';
comment on column etl.seen.run is 'number of the run (etl.runs.number)';
comment on column etl.seen.batch is 'byte at which the batch begins in the decompressed source';
comment on column etl.seen.digests is 'etl_digest of the record at each place of the batch, from 1; null: its rows were written';

create function etl.is_late(of_table text, of_run bigint, of_batch bigint) returns boolean
language sql stable
begin atomic
    select
        exists (select from etl.runs r where r.compares = of_table and r.number > of_run)
        or exists (select from etl.seen s where s.table_name = of_table and (s.run, s.batch) >= (of_run, of_batch));
end;

comment on function etl.is_late is 'whether records after those of a batch may have been left unchanged';

-- Of two batches that are loaded at once, the earlier one must not write a version after the later one compared its
-- records with the row before: a late batch waits for all others, and they wait for it. Each statement of the function
-- sees what was committed while it waited.
create function etl.take_order(of_table text, of_run bigint, of_batch bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog
as $$
declare
    lock_of_table constant bigint := hashtextextended('etl:order:' || of_table, 0);
begin
    if not etl.is_late(of_table, of_run, of_batch) then
        perform pg_advisory_xact_lock_shared(lock_of_table);
        if not etl.is_late(of_table, of_run, of_batch) then
            return false;
        end if;
    end if;
    perform pg_advisory_xact_lock(lock_of_table);
    return true;
end
$$;

comment on function etl.take_order is 'locks the order of the versions in a table until the end of the transaction, and returns whether the batch is late';

create function etl.note_comparing(of_run text, of_table text) returns void
language plpgsql volatile
set search_path = pg_catalog
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('etl:order:' || of_table, 0));
    update etl.runs set versions_of = of_table, compares = of_table where run = of_run;
end
$$;

comment on function etl.note_comparing is 'enters that a run may leave unchanged records as they are: from then on, batches of earlier runs are late';
