-- A small file that a group loads is one row of the ledger: its batch and its marks are columns of its run. The names
-- etl.batches and etl.marks stay those of all batches and marks, and are views now. No row is rewritten.

-- With the triggers that call it; etl db migrate makes those of the table under its new name.
drop function if exists etl.note_etl_batches() cascade;
alter table etl.batches rename to separate_batches;
alter table etl.marks rename to separate_marks;

-- In the order in which they take the least space. What every run of a group has alike is not stored for each of them.
alter table etl.runs
    add column batch_offset integer,
    add column batch_bytes integer,
    add column batch_records integer,
    add column batch_rows_replaced integer,
    add column mark_anchor bigint,
    add column mark_parent bigint,
    add column batch_hash bytea,
    add column batch_rows text,
    add column batch_policies jsonb,
    add column mark_hashes bigint[],
    add column mark_places bytea;

-- Null for the groups of before.
alter table etl.group_attempts add column xact xid8;
alter table etl.group_attempts alter column xact set default pg_current_xact_id();

create index runs_anchor_idx on etl.runs (coalesce(mark_anchor, mark_hashes[1])) where batch_records is not null;
create index runs_parent_idx on etl.runs (mark_parent, batch_records) where mark_parent is not null;

comment on table etl.separate_batches is 'the rows of etl.batches but those of runs that a group has loaded';
comment on table etl.separate_marks is 'the rows of etl.marks but those of runs that a group has loaded';
comment on column etl.runs.batch_records is 'records of the only batch of a run that a group has loaded, all of them loaded; its last mark comes after them; null: the batches and marks of the run are in etl.separate_batches and etl.separate_marks, and so the next ten columns are null, too';
comment on column etl.runs.batch_offset is 'offset of this batch in etl.batches';
comment on column etl.runs.batch_bytes is 'bytes of this batch in etl.batches';
comment on column etl.runs.batch_rows_replaced is 'rows_replaced of this batch in etl.batches';
comment on column etl.runs.batch_hash is 'hash of this batch in etl.batches';
comment on column etl.runs.batch_rows is 'rows of this batch in etl.batches, as the text of an array, which takes a quarter of the space';
comment on column etl.runs.batch_policies is 'policies of this batch in etl.batches';
comment on column etl.runs.mark_anchor is 'anchor in etl.marks; null: the first hash';
comment on column etl.runs.mark_parent is 'parent in etl.marks';
comment on column etl.runs.mark_hashes is 'hashes in etl.marks';
comment on column etl.runs.mark_places is 'places in etl.marks';
comment on column etl.group_attempts.xact is 'transaction that loaded the group; null: its batches are in etl.separate_batches';

create view etl.batches as
select
    run, "offset", bytes, first_record, count_records, hash, attempt, count_loaded, count_rejected, count_failed, rows,
    loaded_at, xact, policies, rows_replaced, count_unchanged, part_offsets, parts, count_deleted
from etl.separate_batches
union all
select
    r.run, r.batch_offset::bigint, r.batch_bytes, 1::bigint, r.batch_records, r.batch_hash, 1, r.batch_records, 0, 0,
    r.batch_rows::bigint[], r.started_at,
    -- A join here would keep the planner from looking a run up by the index.
    (select g.xact from etl.group_attempts g where g.number = r.group_attempt),
    r.batch_policies, r.batch_rows_replaced::bigint, null::integer, null::bigint[], null::bytea, null::bigint
from etl.runs r
where r.batch_records is not null;

create view etl.marks as
select run, last_record, hashes, places, anchor, parent from etl.separate_marks
union all
select number, batch_records::bigint, mark_hashes, mark_places, coalesce(mark_anchor, mark_hashes[1]), mark_parent
from etl.runs
where batch_records is not null;

create or replace view etl.all_attempts as
select
    run, attempt, started_at, ended_at, exit_code, count_read, count_retried, bytes_read, host, os_user, pid, source,
    folder, options, tool_version, rows_deleted, rows_kept, seconds_before
from etl.attempts
union all
select
    r.run, 1, g.started_at, g.ended_at, 0::smallint, coalesce(r.batch_records, b.count_records)::bigint, 0,
    coalesce(r.batch_offset::bigint + r.batch_bytes, b."offset" + b.bytes) + r.bytes_after, g.host, g.os_user, g.pid,
    null::text, g.folder, g.options, g.tool_version, null::bigint[], null::bigint[], null::double precision
from etl.runs r
join etl.group_attempts g on g.number = r.group_attempt
left join etl.separate_batches b on b.run = r.run;

comment on view etl.batches is 'one row per batch, inserted by the transaction that loads it';
comment on view etl.marks is 'marks of the source of a run: after so many of its records, which end at this byte, the hash of all bytes is this';
do $$
declare
    described record;
    granted record;
begin
    for described in
        select
            case attrelid when 'etl.separate_batches'::regclass then 'batches' else 'marks' end as view_name,
            attname, col_description(attrelid, attnum) as meaning
        from pg_attribute
        where attrelid in ('etl.separate_batches'::regclass, 'etl.separate_marks'::regclass)
            and attnum > 0 and not attisdropped
    loop
        execute format('comment on column etl.%I.%I is %L', described.view_name, described.attname, described.meaning);
    end loop;
    -- Whoever may read the tables may read the views under their names.
    for granted in
        select
            case c.oid when 'etl.separate_batches'::regclass then 'batches' else 'marks' end as view_name,
            case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid in ('etl.separate_batches'::regclass, 'etl.separate_marks'::regclass) and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on etl.%I to %s', granted.view_name, granted.grantee);
    end loop;
end
$$;

create or replace function etl.withdraw_batches(of_run text, offsets bigint[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
    withdrawn bigint[];
begin
    select array_agg(b."offset") into withdrawn
    from etl.separate_batches b
    join etl.runs r on r.run = b.run
    where b.run = of_run and b."offset" = any(offsets)
        and r.is_atomic and (r.published_at is null or b.loaded_at > r.published_at);
    delete from etl.faults
    where failure in (select id from etl.failures where run = of_run and batch = any(withdrawn));
    delete from etl.failures where run = of_run and batch = any(withdrawn);
    delete from etl.separate_batches where run = of_run and "offset" = any(withdrawn);
end;
$$;
